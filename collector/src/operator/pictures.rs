//! What operators ask of single visits: a fresh look at a mirror, and the pictures that came of looks.

use std::collections::BTreeSet;

use tokio::task::block_in_place;
use tonic::{Code as Grpc, Response, Status};
use zerkalo_core::fold::{AgentState, Fold, NamedPicture, Wish};
use zerkalo_core::target::{Mirror, Sha256};
use zerkalo_core::words::{AgentId, MirrorId, Station};
use zerkalo_proto::operator::picture_to_wire;
use zerkalo_proto::operator_v1 as wire;

use super::{Operator, truncated};

/// Pictures in one answer if nothing else is asked for, and at most.
const PICTURES_DEFAULT: u32 = 100;
/// See [`PICTURES_DEFAULT`].
const PICTURES_MAX: u32 = 1_000;

impl Operator {
    /// Passes an operator's wish on to who is there to hear it.
    pub(super) fn ask_for_probe(
        &self,
        request: &wire::RequestProbeRequest,
    ) -> Result<Response<wire::RequestProbeResponse>, Status> {
        let asked = self.engine.read(|fold| {
            let mirror = self.listed(fold, &request.mirror)?;
            let named = self.named(fold, &request.agents)?;
            let agents = fold.agents().iter();
            let fits = |(id, agent): &(&AgentId, &AgentState)| {
                let is_meant =
                    if named.is_empty() { measures(fold, agent, mirror) } else { named.contains(*id) };
                is_meant && agent.has_say() && self.connected.has(id)
            };
            let wish = |(id, _): (&AgentId, &AgentState)| Wish {
                agent: id.clone(),
                mirror: mirror.id.clone(),
                addresses: Vec::new(),
                picture: request.picture,
            };
            Ok::<_, Status>(agents.filter(fits).map(wish).collect::<Vec<_>>())
        })?;
        let agents: Vec<String> = asked.iter().map(|wish| wish.agent.to_string()).collect();
        tracing::info!(
            mirror = request.mirror,
            agents = agents.len(),
            picture = request.picture,
            "asked for a probe"
        );
        asked.into_iter().for_each(|wish| self.engine.ask(wish));
        Ok(Response::new(wire::RequestProbeResponse { agents }))
    }

    /// The pictures that records name, newest first.
    pub(super) fn newest_pictures(
        &self,
        request: &wire::ListPicturesRequest,
    ) -> Result<Response<wire::ListPicturesResponse>, Status> {
        let limit = match request.limit {
            0 => PICTURES_DEFAULT,
            limit => limit.min(PICTURES_MAX),
        };
        let is_meant =
            |picture: &&NamedPicture| request.mirror.is_empty() || picture.mirror.as_str() == request.mirror;
        let pictures = self.engine.read(|fold| {
            let meant = fold.pictures().filter(is_meant).take(limit as usize);
            meant.map(|picture| self.shown(fold, picture)).collect()
        });
        Ok(Response::new(wire::ListPicturesResponse { pictures }))
    }

    /// The bytes of a picture, by its digest or its record's hash.
    pub(super) fn picture(&self, text: &str) -> Result<Response<wire::FetchPictureResponse>, Status> {
        let hash = Sha256::from_hex(text.trim())
            .ok_or_else(|| self.bad(format!("{:?} is no hash of 64 hexadecimal digits", truncated(text))))?;
        let is_meant = |picture: &&NamedPicture| {
            picture.record == hash
                || (picture.screenshot.sha256 == hash && picture.screenshot.failure.is_none())
        };
        let found = self.engine.read(|fold| {
            fold.pictures().find(is_meant).map(|picture| (picture.clone(), self.shown(fold, picture)))
        });
        let (named, shown) = found.ok_or_else(|| {
            let detail = "no record of late names it; `zerkalo pictures ls` shows those that are named";
            self.refuse(Grpc::NotFound, "unknown_picture", detail)
        })?;
        if let Some(failure) = &named.screenshot.failure {
            let detail = format!("there is no picture: {failure}");
            return Err(self.refuse(Grpc::NotFound, "no_picture", detail));
        }
        let content =
            block_in_place(|| self.pictures.read(&named.screenshot)).map_err(|e| self.failed(&e))?;
        let content = content.ok_or_else(|| {
            let detail = "its bytes are not here: not sent yet, lost on the way, or given way to newer ones";
            self.refuse(Grpc::NotFound, "picture_not_stored", detail)
        })?;
        Ok(Response::new(wire::FetchPictureResponse { picture: Some(shown), content }))
    }

    fn shown(&self, fold: &Fold, picture: &NamedPicture) -> wire::Picture {
        let stored = self.pictures.has(&picture.screenshot);
        picture_to_wire(picture, fold.agents().get(&picture.agent), stored)
    }

    fn listed<'a>(&self, fold: &'a Fold, name: &str) -> Result<&'a Mirror, Status> {
        let id = MirrorId::parse(name).ok();
        let listed = id.and_then(|id| fold.list()?.mirror(&id));
        listed.ok_or_else(|| {
            let detail = format!("mirror {:?} is not on the list in force", truncated(name));
            self.refuse(Grpc::NotFound, "unknown_mirror", detail)
        })
    }

    fn named(&self, fold: &Fold, names: &[String]) -> Result<BTreeSet<AgentId>, Status> {
        let known = |name: &String| {
            AgentId::parse(name).ok().filter(|id| fold.agents().contains_key(id)).ok_or_else(|| {
                let detail =
                    format!("there is no agent {:?}; `zerkalo agents ls` names them", truncated(name));
                self.refuse(Grpc::NotFound, "unknown_agent", detail)
            })
        };
        names.iter().map(known).collect()
    }
}

/// Whether an agent measures the mirror: as a control, or in one of its markets.
fn measures(fold: &Fold, agent: &AgentState, mirror: &Mirror) -> bool {
    match &agent.enrolment.station {
        Station::Control => true,
        Station::Field { carrier, .. } => {
            let carrier = fold.catalogue().carrier(carrier);
            carrier.is_some_and(|carrier| mirror.markets.contains(&carrier.market))
        }
    }
}
