//! Secrets outside a cluster: documents in the files, a folder as Kubernetes mounts them, and
//! variables of the environment.
//!
//! In: the folder, the variables, and the Secrets that the files refer to. Out: for each namespace
//! the content of each Secret, or why it is ambiguous. Must not do: use a variable for a key of a
//! Secret that it may not be meant for, or show a value.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use super::{Name, Project, name_of};
use crate::cli::output::why;
use crate::gateway::force::secrets::Secrets;

/// The keys and values of one Secret.
type Keys = BTreeMap<String, Vec<u8>>;

/// The maximum number of bytes of a value, as in a Secret of a cluster.
const MAX_VALUE: u64 = 1 << 20;
/// The prefix of the variables' names.
const PREFIX: &str = "PORTCULLIS_SECRET_";

/// The Secrets of one namespace.
#[derive(Clone, PartialEq)]
pub struct FileSecrets {
    pub(super) secrets: BTreeMap<String, Keys>,
}

impl Secrets for FileSecrets {
    fn all(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.secrets.get(name).cloned()
    }

    fn key(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        self.secrets.get(name)?.get(key).cloned()
    }
}

/// Secrets that are not in the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outside {
    /// Those of the folder.
    pub folder: BTreeMap<Name, Keys>,
    variables: BTreeMap<Name, Keys>,
}

impl Project {
    /// Adds the Secrets of a folder and of variables to those of the files; if several of them have
    /// the same key, the variable wins, then the folder. Returns warnings for the user.
    ///
    /// # Errors
    /// When a variable is ambiguous.
    pub fn take_secrets(
        &mut self,
        folder: BTreeMap<Name, Keys>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<String>, String> {
        self.outside = Outside {
            folder,
            variables: BTreeMap::new(),
        };
        // An ambiguous variable is left out, and the others are used.
        let (mut warnings, mut wrong) = (Vec::new(), Vec::new());
        let namespaces: BTreeSet<String> = self
            .servers
            .iter()
            .map(|server| name_of(&server.object.metadata).0)
            .collect();
        let mut found: Vec<(String, OsString)> = variables
            .filter_map(|(name, value)| {
                Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value))
            })
            .collect();
        found.sort();
        for (rest, value) in found {
            let mut namespaces = namespaces.iter();
            let (namespace, None) = (namespaces.next(), namespaces.next()) else {
                return Err(format!(
                    "the variable {PREFIX}{rest} does not name a namespace, and there are servers in several; put the \
                    Secrets into a \
                     folder as DIR/NAMESPACE/NAME/KEY, give it with --secrets DIR, and unset the variable"
                ));
            };
            let Some(namespace) = namespace else { continue };
            let fits: Vec<(String, &str)> = self
                .secret_names(namespace)
                .into_iter()
                .filter_map(|name| {
                    let key = rest.strip_prefix(&variable(&name))?.strip_prefix("__")?;
                    (!key.is_empty()).then_some((name, key))
                })
                .collect();
            match fits.as_slice() {
                [] => warnings.push(format!(
                    "the variable {PREFIX}{rest} is ignored: it does not match any Secret that these files refer to; the variable for the key `trainer` of the Secret `mlflow-agents` is {PREFIX}MLFLOW_AGENTS__trainer"
                )),
                [(name, key)] => {
                    let keys = self
                        .outside
                        .variables
                        .entry((namespace.clone(), name.clone()))
                        .or_default();
                    keys.insert((*key).to_owned(), value.into_vec());
                }
                [(one, _), (other, _), ..] => wrong.push(format!(
                    "the variable {PREFIX}{rest} fits two Secrets, {one} and {other}; put them into a folder as \
                     DIR/NAMESPACE/NAME/KEY, give it with --secrets DIR, and unset the variable"
                )),
            }
        }
        match wrong.is_empty() {
            true => Ok(warnings),
            false => Err(wrong.join("\n")),
        }
    }

    /// The Secrets of one namespace, from all sources.
    pub fn secrets_of(&self, namespace: &str) -> FileSecrets {
        let mut secrets: BTreeMap<String, Keys> = BTreeMap::new();
        for source in [&self.secrets, &self.outside.folder, &self.outside.variables] {
            for ((_, name), keys) in source.iter().filter(|((of, _), _)| of == namespace) {
                let held = secrets.entry(name.clone()).or_default();
                held.extend(keys.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        FileSecrets { secrets }
    }

    /// The Secrets of a namespace that the files or the folder name.
    fn secret_names(&self, namespace: &str) -> BTreeSet<String> {
        let held = self.secrets.keys().chain(self.outside.folder.keys());
        let mut names: BTreeSet<String> = held
            .filter(|(of, _)| of == namespace)
            .map(|(_, name)| name.clone())
            .collect();
        for server in &self.servers {
            if name_of(&server.object.metadata).0 == namespace {
                // An object that cannot be written as JSON has no references.
                let spec = serde_json::to_value(&server.object.spec).unwrap_or_default();
                references(&spec, &mut names);
            }
        }
        names
    }
}

/// Where a spec refers to a Secret (`NAME`) or to a key of one (`NAME/KEY`), as the path of its
/// name or key.
pub fn place_of(spec: &serde_json::Value, missing: &str) -> Option<String> {
    fn find(value: &serde_json::Value, at: &str, name: &str, key: Option<&str>) -> Option<String> {
        match value {
            serde_json::Value::Object(members) => members.iter().find_map(|(member, value)| {
                let path = format!("{at}.{member}");
                let text = |of: &str| value.get(of).and_then(|text| text.as_str());
                let is_reference = member.ends_with("ecretRef") || member.ends_with("ecretKeyRef");
                if is_reference
                    && text("name") == Some(name)
                    && (key.is_none() || text("key") == key)
                {
                    return Some(format!("{path}.name"));
                }
                find(value, &path, name, key)
            }),
            serde_json::Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(i, value)| find(value, &format!("{at}[{i}]"), name, key)),
            _ => None,
        }
    }
    match missing.split_once('/') {
        Some((name, key)) => {
            find(spec, "spec", name, Some(key)).or_else(|| find(spec, "spec", name, None))
        }
        None => find(spec, "spec", missing, None),
    }
}

/// The names in every `secretRef`, `caSecretRef`, `secretKeyRef` and the like.
fn references(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                if (key.ends_with("ecretRef") || key.ends_with("ecretKeyRef"))
                    && let Some(name) = value.get("name").and_then(|name| name.as_str())
                {
                    names.insert(name.to_owned());
                }
                references(value, names);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, names)),
        _ => {}
    }
}

/// The Secrets of a folder, and the unreadable files in it, which are left out.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Folder {
    /// The Secrets.
    pub secrets: BTreeMap<Name, Keys>,
    /// The mistakes, with their paths.
    pub errors: Vec<String>,
}

/// Reads DIR/NAMESPACE/NAME/KEY. Names that begin with a dot are left out, such as the links by
/// which Kubernetes swaps Secrets.
///
/// # Errors
/// When the folder does not exist.
pub fn folder(dir: &Path) -> Result<Folder, String> {
    let mut found = Folder::default();
    for (namespace, path) in entries(dir)? {
        let names = found.or_told(entries(&path));
        for (name, path) in names {
            let mut keys = Keys::new();
            let files = found.or_told(entries(&path));
            for (key, path) in files {
                keys.extend(found.or_told(value(&path).map(|value| Some((key, value)))));
            }
            found.secrets.insert((namespace.clone(), name), keys);
        }
    }
    Ok(found)
}

impl Folder {
    fn or_told<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|why| {
            self.errors.push(why);
            T::default()
        })
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>, String> {
    let unreadable = |error: std::io::Error| {
        format!(
            "{} cannot be read as a folder of Secrets (DIR/NAMESPACE/NAME/KEY): {}",
            dir.display(),
            why(&error)
        )
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(format!(
                "{} is not text in UTF-8; rename it",
                entry.path().display()
            ));
        };
        if !name.starts_with('.') {
            found.push((name.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn value(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |why: &str| {
        format!(
            "{} cannot be read as a key of a Secret: {why}",
            path.display()
        )
    };
    let meta = std::fs::metadata(path).map_err(|error| unreadable(&why(&error)))?;
    // Opening a pipe would block.
    if !meta.is_file() {
        return Err(unreadable("it is not a file"));
    }
    let mut value = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(&why(&error)))?;
    file.take(MAX_VALUE + 1)
        .read_to_end(&mut value)
        .map_err(|error| unreadable(&why(&error)))?;
    if value.len() as u64 > MAX_VALUE {
        return Err(unreadable("it has more than 1 MiB"));
    }
    Ok(value)
}

/// A Secret's name in a variable: upper case, with `_` for every character that is neither a letter
/// nor a digit.
fn variable(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}

/// The variable for a missing Secret (`NAME`) or key (`NAME/KEY`), for messages.
pub fn variable_for(missing: &str) -> String {
    match missing.split_once('/') {
        Some((name, key)) => format!("{PREFIX}{}__{key}", variable(name)),
        None => format!("{PREFIX}{}__<KEY>", variable(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(secrets: &[&str]) -> Project {
        let mut text = String::new();
        for (i, name) in secrets.iter().enumerate() {
            text.push_str(&format!(
                "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: s{i}, namespace: ml}}\nspec:\n  \
                 upstream: {{http: {{url: 'http://127.0.0.1:1/mcp'}}}}\n  authentication: {{apiKeys: {{secretRef: {{name: {name}}}}}}}\n---\n"
            ));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, text).unwrap();
        Project::load(&[file], "system").unwrap_or_else(|found| panic!("{found:?}"))
    }

    fn take(
        secrets: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(Project, Vec<String>), String> {
        let mut project = project(secrets);
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        let warnings = project.take_secrets(BTreeMap::new(), variables)?;
        Ok((project, warnings))
    }

    fn keys(project: &Project, name: &str) -> Vec<(String, String)> {
        let all = project.secrets_of("ml").all(name).unwrap_or_default();
        all.into_iter()
            .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_variable_is_a_key_of_one_secret_with_its_name_as_it_is_written() {
        let (project, warnings) = take(
            &["agents", "agents-prod"],
            &[
                ("PORTCULLIS_SECRET_AGENTS__ci", "1"),
                ("PORTCULLIS_SECRET_AGENTS__Trainer_A", "2"),
                ("PORTCULLIS_SECRET_AGENTS_PROD__ci", "3"),
                ("PORTCULLIS_SECRET_AGENTS_PROD_TOKEN", "4"),
                ("PORTCULLIS_SECRET_AGENTS_CI", "5"),
                ("PORTCULLIS_SECRET_AGENTS__", "6"),
                ("PATH", "7"),
            ],
        )
        .unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            keys(&project, "agents"),
            [pair("Trainer_A", "2"), pair("ci", "1")]
        );
        assert_eq!(keys(&project, "agents-prod"), [pair("ci", "3")]);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .all(|warning| warning.contains("is ignored") && !warning.contains('4')),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_variable_that_fits_two_secrets_is_refused() {
        for secrets in [["a-b", "a.b"], ["a", "a--b"], ["x.y", "x-y"]] {
            let prefix = variable(secrets[1]);
            let name = format!("PORTCULLIS_SECRET_{prefix}__key");
            let error = take(&secrets, &[(&name, "secret-value")])
                .map(|_| ())
                .unwrap_err();
            assert!(
                error.contains("fits two Secrets")
                    && error.contains(secrets[1])
                    && !error.contains("secret-value"),
                "{error}"
            );
        }
    }

    #[test]
    fn variables_are_for_one_namespace() {
        let mut project = project(&["agents"]);
        let mut other = project.servers[0].clone();
        other.object.metadata.namespace = Some("prod".to_owned());
        project.servers.push(other);
        let variables = [("PORTCULLIS_SECRET_AGENTS__ci".into(), "1".into())];
        let error = project
            .take_secrets(BTreeMap::new(), variables.into_iter())
            .unwrap_err();
        assert!(
            error.contains("servers in several") && error.contains("--secrets"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_is_read_as_it_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("ml/agents");
        std::fs::create_dir_all(secret.join("..2026_01")).unwrap();
        std::fs::write(secret.join("..2026_01/Trainer"), "key\n").unwrap();
        std::os::unix::fs::symlink("..2026_01", secret.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/Trainer", secret.join("Trainer")).unwrap();
        let found = folder(dir.path()).unwrap();
        assert_eq!(found.errors, Vec::<String>::new());
        let mut project = project(&["agents"]);
        project
            .take_secrets(found.secrets, std::iter::empty())
            .unwrap();
        assert_eq!(
            keys(&project, "agents"),
            [("Trainer".to_owned(), "key\n".to_owned())]
        );
        assert_eq!(project.secrets_of("other").all("agents"), None);
        // Unreadable entries are left out and reported; the rest is read.
        std::fs::write(dir.path().join("ml/stray"), "x").unwrap();
        std::fs::create_dir(secret.join("nested")).unwrap();
        std::fs::write(secret.join("large"), vec![0; 1 + (1 << 20)]).unwrap();
        let found = folder(dir.path()).unwrap();
        for part in ["ml/stray", "nested", "large"] {
            assert_eq!(
                found
                    .errors
                    .iter()
                    .filter(|error| error.contains(part))
                    .count(),
                1,
                "{found:?}"
            );
        }
        let held = &found.secrets[&("ml".to_owned(), "agents".to_owned())];
        assert_eq!(held.keys().collect::<Vec<_>>(), ["Trainer"]);
        assert!(folder(&dir.path().join("none")).is_err());
    }
}
