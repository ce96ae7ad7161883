//! Messages over turmoil's TCP: length (u32, big-endian), then the message. What a stream over HTTP/2 does for both ends.

use std::io;

use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tonic::Status;

/// Segments that wait in one of turmoil's sockets: more than both ends ever have under way.
pub const SEGMENTS_MAX: usize = 65_536;
/// No message of either end is longer.
const MESSAGE_LEN_MAX: u32 = 4 * 1024 * 1024;

/// Writes one message.
pub async fn send(writer: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let body = message.encode_to_vec();
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    writer.write_all(&bytes).await
}

/// The messages that come; ends with the connection.
pub fn receive<M: Message + Default + 'static>(
    reader: impl AsyncRead + Send + Unpin + 'static,
) -> BoxStream<'static, Result<M, Status>> {
    let next = |mut reader| async move {
        match read(&mut reader).await {
            Ok(message) => Some((Ok(message), reader)),
            Err(_) => None,
        }
    };
    futures::stream::unfold(reader, next).boxed()
}

/// Reads one message.
pub async fn read<M: Message + Default>(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let len = reader.read_u32().await?;
    if len > MESSAGE_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message without end"));
    }
    let mut body = vec![0; len as usize];
    reader.read_exact(&mut body).await?;
    M::decode(&body[..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
