//! What gateways said lately, and who uses which volume.

use super::{Live, Presence};
use quoin_api::v1;
use quoin_cluster::{Attachment, Volume};
use quoin_types::{Epoch, GatewayId, InstanceId, Moment, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a gateway that reports no more is shown.
const GATEWAY_SHOWN: Duration = Duration::from_secs(600);

/// A gateway's last heartbeat.
#[derive(Clone, Debug)]
pub(crate) struct GatewayReport {
    pub(crate) at: Moment,
    /// Since when nobody else has reported under this gateway's name, as far as this leader knows.
    pub(crate) alone_since: Moment,
    pub(crate) instance: InstanceId,
    pub(crate) nbd_address: String,
    pub(crate) version: String,
    pub(crate) attachments: BTreeMap<VolumeId, v1::AttachmentReport>,
}

/// Why a volume cannot be taken from the gateway that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum InUse {
    /// It reports clients.
    Clients { gateway: GatewayId, clients: u32 },
    /// It has the volume so lately, or this leader leads so lately, that it has not reported on it.
    NotKnownYet { gateway: GatewayId },
}

impl Live {
    /// Goes before an attachment is proposed. A gateway attaches a volume because a client is there, and reports on it a
    /// little later: until then, nobody else may think it unused.
    pub(crate) fn attaching(&mut self, volume: VolumeId, gateway: GatewayId, at: Moment) {
        let patience = self.patience();
        self.attaching.retain(|_, known| at.since(*known) <= patience);
        self.attaching.insert((volume, gateway), at);
    }

    pub(super) fn is_new(&self, volume: &Volume, gateway: &GatewayId, now: Moment) -> bool {
        let attaching = self.attaching.get(&(volume.id, gateway.clone()));
        attaching.is_some_and(|at| now.since(*at) <= self.patience())
    }

    pub(crate) fn gateway_heard(&mut self, gateway: GatewayId, mut report: GatewayReport) {
        let now = report.at;
        self.gateways.retain(|_, known| now.since(known.at) < GATEWAY_SHOWN);
        let before = self.gateways.get(&gateway).filter(|known| known.instance == report.instance);
        report.alone_since = before.map_or(now, |known| known.alone_since);
        for (volume, attachment) in &report.attachments {
            self.failures.heard(*volume, attachment);
        }
        self.gateways.insert(gateway, report);
    }

    pub(crate) fn gateways(&self) -> &BTreeMap<GatewayId, GatewayReport> {
        &self.gateways
    }

    pub(crate) fn gateway_presence(&self, gateway: &GatewayId, now: Moment) -> Presence {
        match self.gateways.get(gateway) {
            Some(report) if now.since(report.at) <= self.patience() => Presence::Online,
            None if now.since(self.since) <= self.patience() => Presence::Unknown,
            _ => Presence::Unreachable,
        }
    }

    /// What the attached gateway last reported about a volume, in its present attachment.
    pub(crate) fn attachment_report(&self, volume: &Volume) -> Option<&v1::AttachmentReport> {
        let attachment = volume.attachment.as_ref()?;
        let report = self.gateways.get(&attachment.gateway)?;
        report.attachments.get(&volume.id).filter(|report| Epoch(report.epoch) == attachment.epoch)
    }

    /// Whether the process that has an attachment is gone: another one has reported under its gateway's name, and it alone,
    /// for as long as makes somebody unreachable. While the two take turns, both are alive.
    pub(super) fn is_replaced(&self, attachment: &Attachment, now: Moment) -> bool {
        self.gateways.get(&attachment.gateway).is_some_and(|report| {
            report.instance != attachment.instance
                && now.since(report.at) <= self.patience()
                && now.since(report.alone_since) > self.patience()
        })
    }

    /// Whether taking a volume away would hurt somebody: another gateway that is alive and has clients on it. A steward has
    /// none.
    pub(crate) fn in_use(
        &self,
        volume: &Volume,
        by_other_than: Option<&GatewayId>,
        now: Moment,
    ) -> Option<InUse> {
        let attachment = volume.attachment.as_ref().filter(|attachment| !attachment.steward)?;
        if by_other_than == Some(&attachment.gateway) {
            return None;
        }
        let gateway = attachment.gateway.clone();
        match self.gateway_presence(&gateway, now) {
            Presence::Unreachable => None,
            Presence::Unknown => Some(InUse::NotKnownYet { gateway }),
            Presence::Online => match self.attachment_report(volume).map(|report| report.clients) {
                None if self.is_new(volume, &gateway, now) => Some(InUse::NotKnownYet { gateway }),
                None | Some(0) => None,
                Some(clients) => Some(InUse::Clients { gateway, clients }),
            },
        }
    }
}
