//! The command line as a script meets it: exit codes, errors on stderr, and the weight of flag, variable and file. What
//! needs a cluster is tested in `/tests`.

use std::path::Path;
use std::process::{Command, Output};

fn quoin(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoin"));
    command.current_dir(directory);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"QUOIN_") {
            command.env_remove(variable);
        }
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn bad_usage_is_code_2() {
    let directory = tempfile::tempdir().unwrap();
    for words in [
        &["volume", "create", "v"][..],
        &["volume", "create", "v", "--size", "much"],
        &["volume", "create", "v", "--size", "4097", "--manager", "127.0.0.1:1"],
        &["volume", "list", "--manager", "nowhere"],
        &["volume", "move", "v"],
        &["volume", "set-replicas", "v", "0"],
        &["snapshot", "create", "v"],
        &["nonsense"],
        &["dev", "--nodes", "5", "kill", "gateway-1"],
        &["dev", "--size", "1"],
    ] {
        let output = quoin(directory.path()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: bad usage: "), "{words:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_and_version_are_no_errors() {
    let directory = tempfile::tempdir().unwrap();
    for words in [&["--help"][..], &["--version"], &["dev", "--help"], &["storage-node", "--help"]] {
        let output = quoin(directory.path()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn nobody_to_ask_is_code_4_and_json_errors_are_json() {
    let directory = tempfile::tempdir().unwrap();
    let output = quoin(directory.path()).args(["status", "--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "unavailable");
    assert!(error["error"]["hint"].as_str().unwrap().contains("QUOIN_MANAGER"));

    let mut refused = quoin(directory.path());
    let output = refused.args(["node", "list"]).env("QUOIN_MANAGER", "127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("127.0.0.1:1"), "{}", stderr(&output));

    let output = quoin(directory.path()).args(["volume", "list", "--bad", "--output=json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "bad_usage");

    let output = quoin(directory.path()).args(["dev", "kill", "gateway-1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("\n  hint: "), "{}", stderr(&output));
}

#[test]
fn a_flag_outweighs_a_variable_and_a_variable_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = "id = 1\ndata_dir = 'd'\npeers = ['1=a:1']\ntick = 'from-file'\n";
    std::fs::write(directory.path().join("m.toml"), file).unwrap();
    let run = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = quoin(directory.path());
        command.args(["cluster-manager", "--config", "m.toml"]);
        command.args(flag.map(|flag| ["--tick", flag]).into_iter().flatten());
        command.envs(variable.map(|value| ("QUOIN_TICK", value)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let text = run(None, None);
    assert!(text.contains("`tick` = \"from-file\" (from the file m.toml)"), "{text}");
    let text = run(Some("from-env"), None);
    assert!(text.contains("`tick` = \"from-env\" (from the variable QUOIN_TICK)"), "{text}");
    let text = run(Some("from-env"), Some("from-flag"));
    assert!(text.contains("`tick` = \"from-flag\" (from the flag --tick)"), "{text}");
    assert!(text.contains("\n  hint: write for example 500ms or 2s\n"), "{text}");
}

#[test]
fn the_examples_in_deploy_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config");
    for role in ["cluster-manager", "storage-node", "gateway"] {
        let config = examples.join(format!("{role}.toml"));
        // One value that is bad for certain, in a flag: everything before it in the file has then been read, and the
        // refusal is about the flag alone.
        let mut command = quoin(directory.path());
        command.arg(role).arg("--config").arg(&config).args(["--log-format", "morse"]);
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{role}: {text}");
        assert!(text.contains("(from the flag --log-format)"), "{role}: {text}");
    }
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    let output = quoin(directory.path()).args(["dev", "--dir", ".", "--reset"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("holds no dev cluster"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
