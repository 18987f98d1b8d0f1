//! The strict parser: it never panics, another parser reads what it accepts, and what is written
//! anew says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::json;
use portcullis::protocol::emit::Edits;
use portcullis::protocol::envelope::{self, Message};
use portcullis::protocol::list;

fuzz_target!(|bytes: &[u8]| {
    let tree = json::parse(bytes);
    assert_eq!(tree.as_ref().err(), json::check(bytes).as_ref().err());
    if let Ok(value) = &tree {
        let other: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let text = json::canonical(value);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            other
        );
    }
    let Ok(message) = envelope::parse(bytes) else {
        return;
    };
    let written = message.emit(&Edits::new());
    let again = envelope::parse(&written).unwrap();
    assert_eq!(again.emit(&Edits::new()), written);
    assert_eq!(again.method(), message.method());
    if let (Message::Request(one), Message::Request(two)) = (&message, &again) {
        assert_eq!(
            one.tool_call().map(|call| call.name),
            two.tool_call().map(|call| call.name)
        );
    }
    if let Ok(Some(filtered)) = list::filter(&message, &Edits::new(), |_, entry| entry.name.len() % 2 == 0)
    {
        let kept = envelope::parse(&filtered).unwrap();
        assert_eq!(
            list::filter(&kept, &Edits::new(), |_, entry| entry.name.len() % 2 == 0),
            Ok(None)
        );
    }
});
