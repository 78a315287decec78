//! Histories in files.

use proptest::prelude::*;
use quoin_history::{History, Operation, What, check, read, write};

const EXAMPLE: &str = r#"{"op":"lossy","epoch":3}
{"op":"write","client":0,"block":17,"value":"42","start_ns":1,"end_ns":2,"outcome":"ok"}
{"op":"write","client":1,"block":17,"value":"18446744073709551615","start_ns":1,"end_ns":null,"outcome":"unknown"}
{"op":"write","client":1,"block":18,"value":"0","start_ns":1,"end_ns":5,"outcome":"ok","epoch":2,"durable":true}
{"op":"read","client":0,"block":17,"value":"18446744073709551615","start_ns":3,"end_ns":4,"outcome":"ok","epoch":3}
{"op":"flush","client":0,"start_ns":3,"end_ns":4,"outcome":"ok","epoch":3}
"#;

fn text(history: &History) -> String {
    let mut bytes = Vec::new();
    write(history, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_file_is_read_and_written_as_documented() {
    let history = read(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(text(&history), EXAMPLE);
    assert_eq!(history.operations().len(), 5);
    assert_eq!(check(&history), Ok(()));
    // As others may write it: another order of fields, no end where there is none, or one that means nothing.
    for end in ["", "\"end_ns\":7,", "\"end_ns\":0,"] {
        let line = format!(
            "\n{{\"client\":0,\"op\":\"write\",\"block\":17,\"value\":\"1\",\"start_ns\":5,{end}\"outcome\":\"unknown\"}}\n"
        );
        assert_eq!(read(line.as_bytes()).unwrap().operations()[0].end_ns, None);
    }
}

#[test]
fn what_is_no_operation_is_refused_with_its_line() {
    let good = r#"{"op":"write","client":0,"block":17,"value":"42","start_ns":1,"end_ns":2,"outcome":"ok"}"#;
    assert!(read(good.as_bytes()).is_ok());
    for (from, to) in [
        ("\"42\"", "42"),
        ("\"42\"", "\"042\""),
        ("\"42\"", "\"+42\""),
        ("\"42\"", "\"18446744073709551616\""),
        ("\"42\"", "\"-1\""),
        ("\"block\":17,", ""),
        ("\"block\":17", "\"block\":17,\"block\":17"),
        ("\"block\":17", "\"block\":17,\"colour\":\"red\""),
        ("\"start_ns\":1", "\"start_ns\":3"),
        ("\"start_ns\":1", "\"start_ns\":1.5"),
        ("\"end_ns\":2,", ""),
        ("\"end_ns\":2", "\"end_ns\":null"),
        ("\"ok\"", "\"fine\""),
        ("\"ok\"", "\"unknown\",\"durable\":true"),
        ("\"op\":\"write\",", ""),
        ("\"write\"", "\"append\""),
        ("\"write\"", "\"flush\""),
        ("{", "[{"),
        ("}", "} and more"),
    ] {
        let bad = format!("{good}\n{}\n", good.replacen(from, to, 1));
        assert_ne!(bad, format!("{good}\n{good}\n"), "{from} is in it");
        let error = read(bad.as_bytes()).expect_err(&bad).to_string();
        assert!(error.starts_with("line 2: "), "{error}");
    }
    let unanswered = good.replace("write", "read").replace("ok", "unknown");
    assert!(read(unanswered.as_bytes()).is_err());
}

fn operation() -> impl Strategy<Value = Operation> {
    let what = (0u8..3, any::<u64>(), any::<u64>(), any::<bool>());
    (what, any::<u64>(), 0u64..3, any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
        |((kind, block, value, durable), client, epoch, a, b, answered)| {
            let answered = answered || kind > 0;
            let what = match kind {
                0 => What::Write { block, value, durable: durable && answered },
                1 => What::Read { block, value },
                _ => What::Flush,
            };
            Operation { client, epoch, what, start_ns: a.min(b), end_ns: answered.then_some(a.max(b)) }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(operations in prop::collection::vec(operation(), 0..20), lossy in 0u64..3) {
        let mut history = History::default();
        history.push_lossy(lossy);
        operations.into_iter().for_each(|operation| history.push(operation));
        prop_assert_eq!(read(text(&history).as_bytes()).unwrap(), history);
    }
}
