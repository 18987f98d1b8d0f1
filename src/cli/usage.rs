//! What is wrong with a command line, in words.
//!
//! In: the error of the parser of arguments, or a value of an option. Out: one sentence that says
//! what to write. Must not do: repeat the parser's own words, which are for people who know it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::output::Failure;

/// The failure that says what is wrong; None if the error is the text of `--help` or `--version`.
pub fn failure(error: &clap::Error, root: &clap::Command, words: &[String]) -> Option<Failure> {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        return None;
    }
    let (path, command) = subcommand(root, words);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue);
    let help = format!("`{path} --help` lists what it takes");
    let message = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let written = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            match text(ContextKind::SuggestedSubcommand) {
                Some(near) => {
                    format!("there is no command `{written}`; did you mean `{path} {near}`?")
                }
                None => format!(
                    "there is no command `{written}`; write one of {}",
                    commands(command)
                ),
            }
        }
        ErrorKind::MissingSubcommand => {
            format!("a command is missing; write one of {}", commands(command))
        }
        ErrorKind::UnknownArgument => {
            unknown(&argument, text(ContextKind::SuggestedArg), &path, command)
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(missing)) => missing.clone(),
                _ => vec![argument],
            };
            let described: Vec<String> =
                missing.iter().map(|one| described(one, command)).collect();
            format!("{} missing; {help}", is_or_are(&described))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
            if value.as_deref().is_none_or(str::is_empty) =>
        {
            format!(
                "{} needs a value; write {}",
                option(&argument),
                plain(&argument)
            )
        }
        ErrorKind::InvalidValue => {
            let allowed = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(allowed)) => allowed.clone(),
                _ => Vec::new(),
            };
            format!(
                "{}: `{}` is not one of its values; write {}",
                option(&argument),
                value.unwrap_or_default(),
                or(&allowed)
            )
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let why = why.map(|why| number(&why)).unwrap_or_else(|| help.clone());
            format!("{}: {why}", option(&argument))
        }
        ErrorKind::ArgumentConflict => match text(ContextKind::PriorArg) {
            Some(prior) if option(&prior) != option(&argument) => {
                format!(
                    "{} does not go with {}; write one of them",
                    option(&argument),
                    option(&prior)
                )
            }
            _ => format!("{} is there twice; write it once", option(&argument)),
        },
        ErrorKind::InvalidUtf8 => {
            "an argument is not text in UTF-8; rename what it names".to_owned()
        }
        _ => format!(
            "{} has too many or too few values; {help}",
            option(&argument)
        ),
    };
    Some(Failure::new(message))
}

/// The subcommand that the words name, and how it is called.
fn subcommand<'c>(root: &'c clap::Command, words: &[String]) -> (String, &'c clap::Command) {
    let (mut path, mut command) = (root.get_name().to_owned(), root);
    for word in words {
        if let Some(found) = command.find_subcommand(word) {
            path = format!("{path} {}", found.get_name());
            command = found;
        }
    }
    (path, command)
}

fn commands(command: &clap::Command) -> String {
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
        .map(|one| one.get_name().to_owned())
        .collect();
    or(&names)
}

fn unknown(written: &str, near: Option<String>, path: &str, command: &clap::Command) -> String {
    let help = format!("`{path} --help` lists the options");
    if written.starts_with('-') {
        return match near {
            Some(near) => format!("there is no option {written}; did you mean {near}?"),
            None => format!("there is no option {written} here; {help}"),
        };
    }
    let names_files = command
        .get_arguments()
        .any(|argument| argument.get_id() == "filename");
    match names_files {
        true => {
            format!("`{written}` is an argument too many; name files with -f: {path} -f {written}")
        }
        false => format!(
            "`{written}` is an argument too many; remove it, or put it into quotes with the argument before it ({help})"
        ),
    }
}

/// `--tool TOOL (the name of the tool)`.
fn described(argument: &str, command: &clap::Command) -> String {
    let long = argument
        .strip_prefix("--")
        .map(|rest| rest.split([' ', '=']).next().unwrap_or(rest));
    let value = argument
        .trim_start_matches('<')
        .split('>')
        .next()
        .unwrap_or_default();
    let found = command.get_arguments().find(|known| match long {
        Some(long) => known.get_long() == Some(long),
        None => known
            .get_value_names()
            .is_some_and(|names| names.first().is_some_and(|name| name.as_str() == value)),
    });
    match found.and_then(|found| found.get_help()) {
        Some(about) => {
            let about = about.to_string();
            // The same option without its dashes, as `validate` has it, is described by its other
            // form.
            let about = match about.contains("without -f") {
                true => "a file or a directory of YAML files".to_owned(),
                false => lower(&about),
            };
            format!("{} ({about})", plain(argument))
        }
        None => plain(argument),
    }
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// An argument as a person would write it: `--tool TOOL`, `FILE|DIR`.
fn plain(argument: &str) -> String {
    argument
        .replace("--filename", "-f")
        .replace("...", "")
        .replace(['<', '>'], "")
}

/// Its name without its value.
fn option(argument: &str) -> String {
    plain(argument)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn is_or_are(names: &[String]) -> String {
    match names {
        [only] => format!("{only} is"),
        _ => format!("{} are", names.join(", ")),
    }
}

fn or(names: &[String]) -> String {
    match names {
        [] => "another value".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The words of the standard library for what is not a number, in ours.
fn number(why: &str) -> String {
    if why.contains("invalid digit")
        || why.contains("parse integer")
        || why.contains("too large to fit")
    {
        "write a whole number".to_owned()
    } else {
        why.to_owned()
    }
}

/// An address to listen on.
///
/// # Errors
/// Says what to write.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let here = |port: &str| {
        format!("127.0.0.1:{port} for this machine alone, or 0.0.0.0:{port} for every network")
    };
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if is_port(text) {
        return Err(format!(
            "`{text}` is a port without an address; write {}",
            here(text)
        ));
    }
    if let Ok(host) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Err(format!(
            "`{text}` is an address without a port; write {}",
            SocketAddr::new(host, 8080)
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!(
            "`{text}` is not an address with a port; write for example {}",
            loopback(8080)
        ));
    };
    if text.contains("://") {
        return Err(format!(
            "`{text}` is a URL; write the address and the port alone, for example {}",
            loopback(8080)
        ));
    }
    if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_err()
    {
        return Err(format!(
            "the port of `{text}` is too large; write 1 to 65535"
        ));
    }
    if !is_port(port) {
        return Err(format!(
            "`{text}` has no port; write for example {}",
            loopback(8080)
        ));
    }
    match host {
        "" | "*" => Err(format!("`{text}` has no address; write {}", here(port))),
        "localhost" => Err(format!(
            "`{text}` has a name in place of the address; write 127.0.0.1:{port}"
        )),
        _ => Err(format!(
            "`{text}` has a name in place of the address; write an address of this machine as a number: {}",
            here(port)
        )),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
