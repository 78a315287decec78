//! Volumes that are disks of this machine, for people and for scripts.

use crate::units::size::Size;
use crate::view::table;
use quoin_attach::device;
use serde::Serialize;

/// A volume that is a disk of this machine: the JSON of `attach` and `devices`.
#[derive(Serialize)]
pub(crate) struct Attached {
    device: String,
    volume: String,
    gateway: String,
    size_bytes: u64,
    read_only: bool,
    connections: u32,
    mounted_at: Vec<String>,
    pid: Option<u32>,
}

impl From<&device::Attached> for Attached {
    fn from(attached: &device::Attached) -> Self {
        Self {
            device: attached.device.to_string(),
            volume: attached.backend.volume.clone(),
            gateway: attached.backend.gateway.clone(),
            size_bytes: attached.size_bytes,
            read_only: attached.read_only,
            connections: attached.connections,
            mounted_at: points(attached),
            pid: attached.pid,
        }
    }
}

fn points(attached: &device::Attached) -> Vec<String> {
    attached.mounted_at.iter().map(|point| point.display().to_string()).collect()
}

/// A table of them.
pub(crate) fn table(all: &[device::Attached]) -> String {
    let rows = all
        .iter()
        .map(|attached| {
            vec![
                attached.device.to_string(),
                attached.backend.volume.clone(),
                Size(attached.size_bytes).to_string(),
                attached.connections.to_string(),
                attached.pid.map_or("nobody: its requests wait".to_owned(), |pid| format!("process {pid}")),
                attached.backend.gateway.clone(),
                points(attached).join(" "),
            ]
        })
        .collect();
    let heading = ["DEVICE", "VOLUME", "SIZE", "CONNECTIONS", "ATTENDED BY", "GATEWAY", "MOUNTED ON"];
    table::table(&heading, rows, 0, "no volume is a disk of this machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_nobody_attends_to_stands_out() {
        let attached = device::Attached {
            device: device::Device(1),
            backend: device::Backend {
                gateway: "127.0.0.1:10809".into(),
                volume: "vol1".into(),
                origin: None,
            },
            size_bytes: 1 << 30,
            read_only: false,
            connections: 4,
            mounted_at: vec!["/mnt".into()],
            pid: None,
        };
        let text = table(std::slice::from_ref(&attached));
        let row = text.lines().nth(1).unwrap_or_default();
        assert!(
            row.starts_with("/dev/nbd1  vol1") && row.contains("nobody") && row.ends_with("/mnt"),
            "{text}"
        );
        let json = serde_json::to_value(Attached::from(&attached)).unwrap();
        assert_eq!((&json["device"], &json["pid"]), (&"/dev/nbd1".into(), &serde_json::Value::Null));
        assert!(table(&[]).contains("no volume"));
    }
}
