//! What the supervisor tells its user while it works.

use crate::view;

/// Lines of text for people, or JSON lines for scripts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Say {
    as_json: bool,
}

impl Say {
    pub(crate) const fn new(as_json: bool) -> Self {
        Self { as_json }
    }

    /// Something has happened.
    pub(crate) fn progress(self, message: &str) {
        match self.as_json {
            true => self.line(&serde_json::json!({ "event": "progress", "message": message }).to_string()),
            false => self.line(message),
        }
    }

    /// The cluster serves its volume. `ready URI`, on a line of its own, is what scripts wait for.
    pub(crate) fn ready(self, uri: &str, unix_uri: Option<&str>, commands: &[(&str, String)]) {
        if self.as_json {
            let ready = serde_json::json!({ "event": "ready", "uri": uri, "unix_uri": unix_uri });
            self.line(&ready.to_string());
            return;
        }
        self.line(&format!("ready {uri}"));
        if let Some(unix_uri) = unix_uri {
            self.line(&format!("   or {unix_uri}"));
        }
        self.line("\ntry, in another terminal:");
        for (purpose, command) in commands {
            self.line(&format!("  # {purpose}\n  {command}"));
        }
        self.line("\nCtrl-C stops the cluster; the next start brings the same data back");
    }

    fn line(self, text: &str) {
        // With stdout gone there is nobody to tell, and the cluster is worth more than the message.
        let _ = view::print(&format!("{text}\n"));
    }
}
