//! Random exchanges, each determined by its seed.

use fastrand::Rng;

use super::message::*;
use super::support::Version;

const METHODS: [&str; 9] = [
    "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "PROPFIND",
];
const STATUSES: [u16; 12] = [200, 200, 200, 201, 204, 206, 302, 304, 404, 409, 500, 503];
const INFORMATIONAL: [u16; 4] = [100, 102, 103, 103];
const NAMES: [&str; 12] = [
    "accept",
    "cache-control",
    "cookie",
    "content-type",
    "link",
    "vary",
    "x-a",
    "x-b",
    "x-c",
    "x_d",
    "authorization",
    "etag",
];
const TARGET: &[u8] = b"abcXYZ019/-._~!$&'()*+,;=:@%?|^{}[]\\";
const VALUE: &[u8] = b"abcXYZ019 \t\"(),/:;<=>?@[\\]{}|^`~!#$%&'*+-._\x80\xc3\xff";

fn text(rng: &mut Rng, of: &[u8], most: usize) -> Vec<u8> {
    let length = rng.usize(..=most);
    (0..length).map(|_| of[rng.usize(..of.len())]).collect()
}

fn body(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u8(..20) {
        0..6 => 0,
        6..18 => rng.usize(1..200),
        18 => rng.usize(200..20_000),
        _ => rng.usize(20_000..150_000),
    };
    let mut body = vec![0; length];
    rng.fill(&mut body);
    body
}

fn fields(rng: &mut Rng) -> Fields {
    let count = match rng.u8(..40) {
        0 => rng.usize(90..300),
        _ => rng.usize(..10),
    };
    let mut fields = Vec::new();
    for _ in 0..count {
        let name = NAMES[rng.usize(..NAMES.len())];
        let value = text(rng, VALUE, 30);
        fields.push(field(name, value.trim_ascii()));
    }
    fields
}

fn trailers(rng: &mut Rng, fields: &mut Fields) -> Fields {
    let mut trailers = Vec::new();
    for n in 0..rng.usize(..3) {
        let name = format!("x-trailer-{n}");
        if rng.u8(..4) > 0 {
            fields.push(field("trailer", &name));
        }
        trailers.push((name, text(rng, b"abc 019", 20).trim_ascii().to_vec()));
    }
    trailers
}

fn answer(rng: &mut Rng, method: &str, app: Version) -> Answer {
    let mut answer = Answer::new(STATUSES[rng.usize(..STATUSES.len())], body(rng));
    answer.fields = fields(rng);
    if rng.u8(..6) == 0 {
        for _ in 0..rng.usize(1..4) {
            let status = INFORMATIONAL[rng.usize(..INFORMATIONAL.len())];
            answer.informational.push((status, fields(rng)));
        }
        answer.headless = rng.u8(..10) == 0;
    }
    if matches!(answer.status, 204 | 304) || method == "HEAD" {
        answer.body.clear();
        answer.framing = Framing::Absent;
        if answer.status != 204 && rng.bool() {
            let length = rng.u32(..9_999).to_string();
            answer.fields.push(field("content-length", length));
        }
        return answer;
    }
    answer.framing = match rng.u8(..10) {
        0 if app == Version::Http1 => Framing::Close,
        0..5 => Framing::Chunked,
        _ => Framing::Length,
    };
    if answer.framing == Framing::Chunked {
        answer.trailers = trailers(rng, &mut answer.fields);
    }
    answer.cut = answer.framing != Framing::Close && answer.body.len() > 1 && rng.u8(..50) == 0;
    answer
}

pub fn exchange(seed: u64, client: Version, app: Version) -> Exchange {
    let mut rng = Rng::with_seed(seed);
    let method = METHODS[rng.usize(..METHODS.len())];
    let mut target = b"/".to_vec();
    target.extend(text(&mut rng, TARGET, 40));
    let mut sent = Exchange::new(method, &String::from_utf8_lossy(&target));
    sent.fields = fields(&mut rng);
    match rng.u8(..10) {
        0..4 => {}
        4..7 => sent = sent.body(Framing::Length, body(&mut rng)),
        _ => {
            sent = sent.body(Framing::Chunked, body(&mut rng));
            sent.trailers = trailers(&mut rng, &mut sent.fields);
        }
    }
    if client == Version::Http1 && rng.u8(..4) == 0 {
        sent = sent.with("te", "trailers").with("connection", "te");
    }
    sent.answer = answer(&mut rng, method, app);
    sent
}
