//! `portcullis completions`, and what kubectl asks its plugins for completions.
//!
//! In: a shell's name, or the words that a user has typed so far. Out: a script for that shell, or
//! the words that may come next. Must not do: talk to a cluster, because a shell completes at every
//! key.

use clap::Command;

use super::output::{Failure, print};

/// The name under which kubectl looks for the completions of `kubectl portcullis`.
pub const KUBECTL_NAME: &str = "kubectl_complete-portcullis";

/// Print the completions for a shell. For kubectl, link this program as kubectl_complete-portcullis
/// in PATH
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Runs the command for a program with those commands.
///
/// # Errors
/// [`Failure`] when the script cannot be printed.
pub fn run(args: &Args, program: &mut Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, "portcullis", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Answers kubectl, which hands over the words after `kubectl portcullis` and completes the last.
///
/// # Errors
/// [`Failure`] when the answer cannot be printed.
pub fn kubectl(program: &Command, words: &[String]) -> Result<(), Failure> {
    let mut text = String::new();
    for (word, help) in candidates(program, words) {
        text += &word;
        if let Some(help) = help {
            text += &format!("\t{help}");
        }
        text.push('\n');
    }
    // Cobra's directive: no file names.
    text += ":4\n";
    print(&text)
}

/// The words that may stand in place of the last one, with what they mean.
fn candidates(root: &Command, words: &[String]) -> Vec<(String, Option<String>)> {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut command = root;
    // Options that a parent takes everywhere.
    let mut global = Vec::new();
    let mut awaited: Option<&clap::Arg> = None;
    for word in before {
        if awaited.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            awaited = option(command, &global, word).filter(|arg| takes_value(arg));
        } else if let Some(inner) = command.find_subcommand(word) {
            let own = command.get_arguments();
            global.extend(own.filter(|arg| arg.is_global_set()));
            command = inner;
        }
    }
    let help = |text: Option<&clap::builder::StyledStr>| text.map(ToString::to_string);
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    if let Some(arg) = awaited {
        found.extend(values(arg));
    } else if last.starts_with('-') {
        for arg in command
            .get_arguments()
            .chain(global)
            .filter(|arg| !arg.is_hide_set())
        {
            if let Some(long) = arg.get_long() {
                found.push((format!("--{long}"), help(arg.get_help())));
            }
        }
    } else {
        let inner = command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set());
        found.extend(inner.map(|inner| (inner.get_name().to_owned(), help(inner.get_about()))));
        found.extend(command.get_positionals().flat_map(values));
    }
    found.retain(|(word, _)| word.starts_with(last));
    found
}

/// The option that a word such as `-n` or `--output` names; `--output=x` has its value already.
fn option<'c>(command: &'c Command, global: &[&'c clap::Arg], word: &str) -> Option<&'c clap::Arg> {
    let mut all = command.get_arguments().chain(global.iter().copied());
    all.find(|arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg
            .get_short()
            .is_some_and(|short| word == format!("-{short}")),
    })
}

fn takes_value(arg: &clap::Arg) -> bool {
    arg.get_action().takes_values()
}

fn values(arg: &clap::Arg) -> Vec<(String, Option<String>)> {
    let possible = arg.get_possible_values().into_iter();
    let shown = possible.filter(|value| !value.is_hide_set());
    shown
        .map(|value| {
            (
                value.get_name().to_owned(),
                value.get_help().map(ToString::to_string),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        _command: Commands,
    }

    #[derive(clap::Subcommand)]
    enum Commands {
        Approvals(crate::cli::approvals::Args),
    }

    fn complete(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found = candidates(&<Program as clap::CommandFactory>::command(), &words).into_iter();
        found.map(|(word, _)| word).collect()
    }

    #[test]
    fn kubectl_completes_commands_options_and_their_values() {
        assert_eq!(complete("appr"), ["approvals"]);
        assert_eq!(
            complete("approvals "),
            ["list", "show", "approve", "deny", "watch"]
        );
        assert_eq!(complete("approvals a"), ["approve"]);
        // A value does not select a command, whatever it says.
        assert_eq!(complete("approvals -n list wa"), ["watch"]);
        assert_eq!(complete("approvals --namespace=ml wa"), ["watch"]);
        assert_eq!(
            complete("approvals list -o "),
            ["table", "wide", "yaml", "json", "name"]
        );
        assert_eq!(complete("approvals list --output y"), ["yaml"]);
        let options = complete("approvals list --");
        for option in [
            "--output",
            "--pending",
            "--namespace",
            "--all-namespaces",
            "--context",
            "--kubeconfig",
        ] {
            assert!(
                options.iter().any(|found| found == option),
                "{option}: {options:?}"
            );
        }
        assert_eq!(complete("approvals approve NAME --r"), ["--reason"]);
        assert!(complete("approvals --context ").is_empty());
    }
}
