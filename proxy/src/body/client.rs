//! The body of a client's request before it is sent anywhere.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;

use super::{BodyError, Incoming, ReplayBuffer, ReplayMemory, RequestBody};

/// A client's body, and the handle by which it is read again.
pub struct ClientBody {
    pub body: RequestBody,
    pub replay_buffer: ReplayBuffer,
}

/// Why a body cannot be looked at before it is sent.
#[derive(Debug)]
pub enum PeekError {
    TooLong,
    /// There is no memory to keep it.
    NoMemory,
    Broken(BodyError),
}

impl ClientBody {
    pub fn new(incoming: Incoming, memory: &Arc<ReplayMemory>) -> Self {
        let (body, replay_buffer) = RequestBody::replayable(incoming, memory);
        Self {
            body,
            replay_buffer,
        }
    }

    /// Returns the whole body, which is at its start again afterwards. Errors if it is longer than
    /// `most` bytes, which must not be more than what replay buffers hold.
    pub async fn peek(&mut self, most: usize) -> Result<Bytes, PeekError> {
        if self.replay_buffer.is_none() {
            return Ok(Bytes::new());
        }
        if self.body.size_hint().lower() > most as u64 {
            return Err(PeekError::TooLong);
        }
        self.replay_buffer.keep_whole();
        let mut whole = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(PeekError::Broken)?;
            if let Some(data) = frame.data_ref() {
                if whole.len() + data.len() > most {
                    return Err(PeekError::TooLong);
                }
                whole.extend_from_slice(data);
            }
        }
        self.body = self.replay_buffer.replay().ok_or(PeekError::NoMemory)?;
        Ok(whole.freeze())
    }
}
