//! Golden conversations with the placement planner: nodes and a wish in, a plan out. `UPDATE_GOLDEN=1` writes the answers
//! anew; look at the difference before keeping it.

use quoin_cluster::planner::placement::{NodeLoad, place};
use quoin_types::NodeId;
use std::fmt::Write;
use std::path::PathBuf;

const SEPARATOR: &str = "----";

#[test]
fn the_planner_answers_as_before() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/placement.txt");
    let golden = std::fs::read_to_string(&path).unwrap();
    let answered: String = golden.split("\n\n").map(answer).collect::<Vec<_>>().join("\n\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &answered).unwrap();
    }
    assert_eq!(answered, golden, "run with UPDATE_GOLDEN=1 and look at the difference");
}

/// A conversation with the answer that the planner gives now.
fn answer(conversation: &str) -> String {
    let question = conversation.split(SEPARATOR).next().unwrap().trim();
    let mut nodes = Vec::new();
    let mut plan = String::new();
    for line in question.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["node", id, rest @ ..] => nodes.push(node(id, rest)),
            ["place", rest @ ..] => write!(plan, "{}", placed(&nodes, rest)).unwrap(),
            _ => assert!(line.starts_with('#'), "{line}"),
        }
    }
    format!("{question}\n{SEPARATOR}\n{}", plan.trim_end())
}

fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(words: &[&str], key: &str) -> u64 {
    value(words, key).map_or(0, |text| text.parse().unwrap())
}

fn node(id: &str, words: &[&str]) -> NodeLoad {
    NodeLoad {
        node: NodeId(id.parse().unwrap()),
        zone: value(words, "zone").unwrap_or_default().to_owned(),
        free_bytes: number(words, "free") << 30,
        replicas: number(words, "replicas"),
    }
}

fn placed(nodes: &[NodeLoad], words: &[&str]) -> String {
    let replicas = usize::try_from(number(words, "replicas")).unwrap();
    let segments = vec![number(words, "gib") << 30; usize::try_from(number(words, "segments")).unwrap()];
    let Some(plan) = place(nodes.to_vec(), replicas, &segments) else { return "too few nodes\n".to_owned() };
    plan.iter().enumerate().fold(String::new(), |mut text, (index, nodes)| {
        let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        writeln!(text, "segment {index}: {}", nodes.join(" ")).unwrap();
        text
    })
}
