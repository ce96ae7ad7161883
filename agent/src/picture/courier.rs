//! Pictures on one stream: one at a time, and only while no record waits.

use tokio::sync::mpsc;
use zerkalo_core::target::Sha256;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::{Picture, PictureAnswer, StreamRequest};

use super::MEDIA_TYPE;
use super::pending::Pending;

/// What of the pictures is on its way on this stream.
pub struct Courier<'a> {
    /// `None` where the collector takes no pictures, or none can be kept here.
    pending: Option<&'a Pending>,
    in_flight: Option<Sha256>,
}

impl<'a> Courier<'a> {
    /// Nothing on its way.
    pub fn new(pending: Option<&'a Pending>, is_welcome: bool) -> Self {
        Self { pending: pending.filter(|_| is_welcome), in_flight: None }
    }

    /// Sends the oldest picture, where none is on its way and the stream's queue has room.
    pub async fn send(&mut self, up: &mpsc::Sender<StreamRequest>) {
        let Some(pending) = self.pending.filter(|_| self.in_flight.is_none()).cloned() else { return };
        let Ok(permit) = up.try_reserve() else { return };
        let oldest = tokio::task::spawn_blocking(move || pending.oldest()).await;
        match oldest.expect("reading a picture does not panic and is never aborted") {
            Ok(None) => {}
            Ok(Some((sha256, content))) => {
                let (digest, media_type) = (sha256.0.to_vec(), MEDIA_TYPE.to_owned());
                let picture = Picture { sha256: digest, media_type, content };
                permit.send(StreamRequest { message: Some(Up::Picture(picture)) });
                self.in_flight = Some(sha256);
            }
            Err(error) => {
                tracing::warn!(%error, "pictures cannot be read and are not sent on this stream");
                self.pending = None;
            }
        }
    }

    /// Takes the collector's word on a picture.
    pub fn answered(&mut self, answer: &PictureAnswer) {
        let PictureAnswer { sha256, code, detail } = answer;
        let Some(sent) = self.in_flight.take_if(|sent| sent.0[..] == sha256[..]) else { return };
        if !code.is_empty() {
            tracing::warn!(picture = %sent, code, detail, "the collector refused a picture; it is dropped");
        }
        if let Some(pending) = self.pending {
            pending.done(&sent);
        }
    }

    /// Ends once another picture may be sent.
    pub async fn released(&self) {
        match self.pending {
            Some(pending) => pending.released().await,
            None => std::future::pending().await,
        }
    }
}
