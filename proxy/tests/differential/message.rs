//! An exchange as it is sent, and as both ends receive it.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Names in lower case, and raw values.
pub type Fields = Vec<(String, Vec<u8>)>;

/// Identifies the exchange, so that the application finds its response.
pub const ID: &str = "x-exchange";

pub fn field(name: &str, value: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_ref().to_vec())
}

pub fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = fields.iter().filter(move |(of, _)| of == name);
    named.map(|(_, value)| &value[..])
}

/// How a body is framed. In HTTP/2 all but `Length` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body, and no framing field.
    Absent,
    Length,
    Chunked,
    /// Ends with the connection; responses only.
    Close,
}

#[derive(Clone, Debug)]
pub struct Exchange {
    pub method: String,
    pub target: String,
    pub host: String,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Fields,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub informational: Vec<(u16, Fields)>,
    pub status: u16,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Sent before the request's body is read.
    pub early: bool,
    /// Broken off after half of the body.
    pub cut: bool,
    /// Broken off before the final head.
    pub headless: bool,
}

impl Exchange {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "reviews".to_owned(),
            fields: Vec::new(),
            framing: Framing::Absent,
            body: Vec::new(),
            trailers: Vec::new(),
            answer: Answer::new(200, "ok"),
        }
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(field(name, value));
        self
    }

    pub fn body(mut self, framing: Framing, body: impl AsRef<[u8]>) -> Self {
        self.framing = framing;
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.fields.push(field("trailer", name));
        self.trailers.push(field(name, value));
        self
    }

    pub fn answer(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }
}

impl Answer {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            informational: Vec::new(),
            status,
            fields: Vec::new(),
            framing: Framing::Length,
            body: body.as_ref().to_vec(),
            trailers: Vec::new(),
            early: false,
            cut: false,
            headless: false,
        }
    }

    /// Adds an informational response, which is sent before the final head.
    pub fn after(mut self, status: u16, fields: Fields) -> Self {
        self.informational.push((status, fields));
        self
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(field(name, value));
        self
    }

    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.fields.push(field("trailer", name));
        self.trailers.push(field(name, value));
        self
    }

    /// Returns the fields that are sent, including those of the framing.
    pub fn all_fields(&self) -> Fields {
        framed(&self.fields, self.framing, &self.body)
    }
}

/// Returns `fields`, with `content-length` where the framing has it.
pub fn framed(fields: &Fields, framing: Framing, body: &[u8]) -> Fields {
    let mut fields = fields.clone();
    if framing == Framing::Length {
        fields.push(field("content-length", body.len().to_string()));
    }
    fields
}

/// A request as the application received it.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    pub method: String,
    pub target: String,
    pub host: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// What a strict parser rejects.
    pub problem: Option<String>,
}

/// A response as the client received it.
#[derive(Clone, Debug)]
pub struct SeenAnswer {
    pub informational: Vec<(u16, Fields)>,
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Whether the response was complete.
    pub whole: bool,
}

/// Maps exchanges to the responses that applications send, and to receivers of their requests.
#[derive(Default)]
pub struct Board(Mutex<HashMap<String, (Answer, UnboundedSender<SeenRequest>)>>);

impl Board {
    pub fn post(&self, id: &str, answer: Answer) -> UnboundedReceiver<SeenRequest> {
        let (sender, receiver) = unbounded_channel();
        let mut posted = self.0.lock().unwrap();
        posted.insert(id.to_owned(), (answer, sender));
        receiver
    }

    pub fn take_down(&self, id: &str) {
        self.0.lock().unwrap().remove(id);
    }

    pub fn find(&self, fields: &Fields) -> Option<(Answer, UnboundedSender<SeenRequest>)> {
        let id = String::from_utf8_lossy(values(fields, ID).next()?).into_owned();
        self.0.lock().unwrap().get(&id).cloned()
    }
}
