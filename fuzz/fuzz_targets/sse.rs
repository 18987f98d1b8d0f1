//! The SSE codec: splitting changes nothing, and what is decoded survives being encoded and decoded
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::protocol::sse::{DecodeError, Decoder, Item, encode};

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Option<DecodeError>) {
    let mut decoder = Decoder::new(1024);
    let mut items = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
    }
    while let Some(next) = decoder.next_item() {
        match next {
            Ok(item) => items.push(item),
            Err(error) => return (items, Some(error)),
        }
    }
    (items, None)
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (size, bytes) = input;
    let whole = decode(std::iter::once(&bytes[..]));
    assert_eq!(decode(bytes.chunks(usize::from(size).max(1))), whole);
    let mut written = Vec::new();
    for item in &whole.0 {
        encode(item, &mut written).unwrap();
    }
    // Spaces that the decoder takes off are written back, so an event at its limit may be a little
    // over it.
    let mut decoder = Decoder::new(1 << 16);
    decoder.push(&written);
    for item in whole.0 {
        assert_eq!(decoder.next_item(), Some(Ok(item)));
    }
    assert_eq!(decoder.next_item(), None);
});
