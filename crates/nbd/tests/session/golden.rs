//! Golden conversations: `golden/*.txt`, each played twice, with the client's lines whole and byte by byte.
//!
//! A line is `C:` (the client sends), `S:` (the server must have sent exactly this), `R:` (what the session asked the
//! shell, one thing per line), `do:` (`shutdown` or `refuse-list`) or `end:` (how it must end). `== title` starts a
//! conversation, `given: simple|structured|extended EXPORT CONTEXTS` starts it in transmission (`alloc`, or the key of a
//! snapshot, with ids 1, 2 …), `tls: available|required` with that policy. An indented line continues the one above.
//! Bytes are hex with `_` for the eye, `"text"`, or `HEX*COUNT`. `#` starts a comment.

use crate::shell::{End, Shell};
use quoin_nbd::{CloseReason, Context, ContextKind, Limits, Negotiated, ReplyStyle, TlsPolicy};

/// Bounds small enough for a text file.
const LIMITS: Limits = Limits {
    option_bytes_max: 128,
    option_discard_bytes_max: 256,
    options_max: 12,
    payload_discard_bytes_max: 1 << 14,
};

#[test]
fn handshake() {
    assert_eq!(play(include_str!("golden/handshake.txt")), 28);
}

#[test]
fn handshake_with_tls() {
    assert_eq!(play(include_str!("golden/tls.txt")), 8);
}

#[test]
fn metadata_contexts() {
    assert_eq!(play(include_str!("golden/contexts.txt")), 11);
}

#[test]
fn transmission_with_extended_headers() {
    assert_eq!(play(include_str!("golden/extended.txt")), 12);
}

#[test]
fn transmission_with_simple_replies() {
    assert_eq!(play(include_str!("golden/simple.txt")), 17);
}

#[test]
fn transmission_with_structured_replies() {
    assert_eq!(play(include_str!("golden/structured.txt")), 15);
}

/// Plays every conversation of a file; returns how many there are.
fn play(file: &str) -> usize {
    let file = unfold(file);
    let conversations: Vec<&str> = file.split("\n== ").skip(1).collect();
    for conversation in &conversations {
        let (title, lines) = conversation.split_once('\n').expect("lines after the title");
        for byte_by_byte in [false, true] {
            Player::new(title, byte_by_byte).play(lines);
        }
    }
    conversations.len()
}

fn negotiated(replies: &str, contexts: &[&str]) -> Negotiated {
    let replies = match replies {
        "simple" => ReplyStyle::Simple,
        "structured" => ReplyStyle::Structured,
        "extended" => ReplyStyle::Extended,
        _ => panic!("given: {replies}"),
    };
    let kind = |name: &str| match name {
        "alloc" => ContextKind::Allocation,
        key => ContextKind::ChangedSince(key.parse().expect("a snapshot's key")),
    };
    let contexts = (1..).zip(contexts).map(|(id, name)| Context { id, kind: kind(name) });
    Negotiated { replies, contexts: contexts.collect(), ..Negotiated::default() }
}

/// Removes comments and joins continued lines.
fn unfold(file: &str) -> String {
    let mut unfolded = String::new();
    for line in file.lines() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if !line.starts_with(' ') {
            unfolded.push('\n');
        }
        unfolded.push_str(line);
    }
    unfolded
}

struct Player<'a> {
    title: &'a str,
    byte_by_byte: bool,
    shell: Shell,
    asked: std::vec::IntoIter<String>,
}

impl<'a> Player<'a> {
    fn new(title: &'a str, byte_by_byte: bool) -> Self {
        Self { title, byte_by_byte, shell: Shell::new(LIMITS), asked: Vec::new().into_iter() }
    }

    fn play(mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let (kind, rest) = line.split_once(':').unwrap_or_else(|| panic!("{}: {line}", self.title));
            self.line(kind, rest.trim());
        }
        self.all_was_expected("the end");
        assert_eq!(self.shell.end, None, "{}: ended without an `end:` line", self.title);
    }

    fn line(&mut self, kind: &str, rest: &str) {
        match kind {
            "given" => {
                let words: Vec<&str> = rest.split(' ').collect();
                self.shell = Shell::transmitting(words[1], negotiated(words[0], &words[2..]), LIMITS);
            }
            "tls" => {
                let policy = match rest {
                    "available" => TlsPolicy::Available,
                    "required" => TlsPolicy::Required,
                    _ => panic!("{}: tls: {rest}", self.title),
                };
                self.shell = Shell::with_tls(LIMITS, policy);
            }
            "do" => match rest {
                "shutdown" => self.shell.begin_shutdown(),
                "refuse-list" => self.shell.list_refused = true,
                _ => panic!("{}: do: {rest}", self.title),
            },
            "C" => {
                self.all_was_expected(rest);
                let sent = bytes(rest);
                if self.byte_by_byte {
                    sent.iter().for_each(|byte| self.shell.receive(&[*byte]));
                } else {
                    self.shell.receive(&sent);
                }
                self.asked = std::mem::take(&mut self.shell.asked).into_iter();
            }
            "S" => {
                self.shell.receive(&[]);
                let expected = bytes(rest);
                let sent = &self.shell.output;
                let start = &sent[..expected.len().min(sent.len())];
                assert_eq!(hex(start), hex(&expected), "{}: S: {rest}\n(of {})", self.title, hex(sent));
                self.shell.output.drain(..expected.len());
            }
            "R" => assert_eq!(self.asked.next().as_deref(), Some(rest), "{}: R:", self.title),
            "end" => {
                self.all_was_expected(rest);
                let end = match self.shell.end.take() {
                    Some(End::Closed(CloseReason::Aborted)) => "aborted".to_owned(),
                    Some(End::Closed(CloseReason::ExportRefused)) => "refused".to_owned(),
                    Some(End::Closed(CloseReason::TlsRequired)) => "tls required".to_owned(),
                    Some(End::Disconnected) => "disconnected".to_owned(),
                    Some(End::Broken(error)) => error.to_string(),
                    None => "nothing".to_owned(),
                };
                assert_eq!(end, rest, "{}", self.title);
            }
            _ => panic!("{}: a line of kind {kind}", self.title),
        }
    }

    fn all_was_expected(&self, before: &str) {
        let (title, sent) = (self.title, hex(&self.shell.output));
        assert!(sent.is_empty(), "{title}: before {before}: the server also sent {sent}");
        let asked = self.asked.as_slice();
        assert!(asked.is_empty(), "{title}: before {before}: the session also asked {asked:?}");
    }
}

/// Reads the bytes of a line.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end;
        if let Some(quoted) = rest.strip_prefix('"') {
            end = quoted.find('"').expect("a closing quote") + 2;
            bytes.extend_from_slice(&quoted.as_bytes()[..end - 2]);
        } else {
            end = rest.find(' ').unwrap_or(rest.len());
            let (digits, count) = rest[..end].split_once('*').unwrap_or((&rest[..end], "1"));
            let digits = digits.replace('_', "");
            assert!(digits.len().is_multiple_of(2), "half a byte in {text}");
            let group = (0..digits.len()).step_by(2);
            let group: Vec<u8> =
                group.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect();
            bytes.extend(group.repeat(count.parse().expect("a count")));
        }
        rest = rest[end..].trim_start();
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
