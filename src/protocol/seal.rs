//! Sealing: an upstream's ids of sessions, events, requests and tasks leave the gateway only
//! encrypted.
//!
//! In: an opaque upstream value, its purpose, its owner and binding, and its expiry. Out: a token
//! of visible ASCII that any replica with the same keys can open, for the same owner and purpose
//! only. Every failure to open looks the same: malformed, forged, another grant's, another
//! purpose's or expired. It must not be asked to open a token without the binding of the current
//! caller. Time is an argument; the nonce comes from the system.
//!
//! Token: base64url without padding of `1 ‖ nonce (12) ‖ ChaCha20-Poly1305(expiry (8) ‖ value)`;
//! the associated data are the purpose and the binding, each part with its length before it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::declared::Declared;
use super::envelope::Id;
use super::version::Version;

const FORMAT: u8 = 1;
/// What the keys for names are derived for. A key that seals is never itself used for anything
/// else.
const NAMES: &[u8] = b"portcullis names of approvals, version 1";
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;
/// What is decoded from tokens of up to four thirds of this length needs no allocation.
const USUAL: usize = 384;
/// Longer values are not sealed: the token has to fit into a header.
const MAX_VALUE: usize = 4096;
/// Longer tokens are not examined.
const MAX_TOKEN: usize = 8192;

/// What a value is. A token for one purpose does not open for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// `Mcp-Session-Id`.
    Session = 1,
    /// The `id` of an SSE event, which comes back as `Last-Event-ID`.
    Event = 2,
    /// The id of a request from server to client.
    ServerRequest = 3,
    /// `nextCursor`.
    Cursor = 4,
    /// `taskId`.
    Task = 5,
    /// `requestState` (2026-07-28).
    RequestState = 6,
}

/// Whom and what a value belongs to. What does not apply stays empty, when sealing and when
/// opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Binding<'a> {
    pub server_uid: &'a str,
    pub grant: &'a str,
    /// The UUID of the session, as bytes.
    pub session: &'a [u8],
    pub method: &'a str,
    pub tool: &'a str,
    pub arguments_digest: &'a [u8],
}

impl Binding<'_> {
    fn associated(&self, purpose: Purpose) -> Vec<u8> {
        let parts = [
            self.server_uid.as_bytes(),
            self.grant.as_bytes(),
            self.session,
            self.method.as_bytes(),
            self.tool.as_bytes(),
            self.arguments_digest,
        ];
        let length: usize = parts.iter().map(|part| 8 + part.len()).sum();
        let mut out = Vec::with_capacity(2 + length);
        out.extend_from_slice(&[FORMAT, purpose as u8]);
        for part in parts {
            out.extend_from_slice(&(part.len() as u64).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }
}

/// What a session id holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Random; what limits and other bindings know the session by.
    pub uuid: [u8; 16],
    /// What `initialize` settled on.
    pub version: Version,
    /// What the client declared.
    pub declared: Declared,
    /// The upstream's own id, if it gave one.
    pub upstream: Option<String>,
}

/// The token is not one of ours for this owner and purpose, or its time is over. Deliberately
/// without detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value was not issued by this gateway for this caller, or has expired")]
pub struct NotOurs;

/// Sealing itself failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the upstream's value is longer than 4096 bytes")]
    TooLong,
    #[error("the system did not provide random bytes")]
    Random,
    #[error("encryption failed")]
    Crypto,
}

/// A key file that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "one of the sealing keys is not the base64 of 32 bytes; make one with: openssl rand -base64 32"
    )]
    Line(usize),
    #[error("there is no sealing key; put one base64 key of 32 bytes on each line")]
    Empty,
}

/// Seals with the first of its keys and opens with any.
pub struct Sealer {
    keys: Vec<LessSafeKey>,
    /// One for each of the keys.
    names: Vec<hmac::Key>,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

/// A new key as a line of a key file.
pub fn generate_key() -> Result<String, SealError> {
    let mut key = [0; KEY_LEN];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| SealError::Random)?;
    Ok(STANDARD.encode(key))
}

impl Sealer {
    /// Reads a key file: one base64 key of 32 bytes a line, the one to seal with first. Blank and
    /// repeated lines do not count.
    pub fn from_key_file(text: &str) -> Result<Self, KeyError> {
        let (mut keys, mut names) = (Vec::new(), Vec::new());
        let mut seen = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || seen.contains(&line) {
                continue;
            }
            seen.push(line);
            let bytes = STANDARD_NO_PAD
                .decode(line.trim_end_matches('='))
                .map_err(|_| KeyError::Line(index + 1))?;
            let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
                .map_err(|_| KeyError::Line(index + 1))?;
            keys.push(LessSafeKey::new(key));
            let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), NAMES);
            names.push(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()));
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self {
            keys,
            names,
            random: SystemRandom::new(),
        })
    }

    /// A sealer with one new, unshared key: its tokens die with it.
    pub fn ephemeral() -> Result<Self, SealError> {
        Self::from_key_file(&generate_key()?).map_err(|_| SealError::Crypto)
    }

    /// A name of a text that only holders of these keys can compute: 32 hexadecimal digits for each
    /// key, that of the key that seals first. Replicas that are given another first key one after
    /// the other meet at those of the others.
    pub fn names(&self, text: &str) -> Vec<String> {
        let name = |key: &hmac::Key| {
            let tag = hmac::sign(key, text.as_bytes());
            let mut name = hex::encode(tag);
            name.truncate(32);
            name
        };
        self.names.iter().map(name).collect()
    }

    /// Seals a value until `expires` (seconds since 1970).
    pub fn seal(
        &self,
        purpose: Purpose,
        binding: &Binding<'_>,
        value: &[u8],
        expires: u64,
    ) -> Result<String, SealError> {
        if value.len() > MAX_VALUE {
            return Err(SealError::TooLong);
        }
        let key = self.keys.first().ok_or(SealError::Crypto)?;
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SealError::Random)?;
        let mut body = Vec::with_capacity(8 + value.len() + TAG_LEN);
        body.extend_from_slice(&expires.to_be_bytes());
        body.extend_from_slice(value);
        let associated = Aad::from(binding.associated(purpose));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated, &mut body)
            .map_err(|_| SealError::Crypto)?;
        let mut token = Vec::with_capacity(1 + NONCE_LEN + body.len());
        token.push(FORMAT);
        token.extend_from_slice(&nonce);
        token.append(&mut body);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// Opens a token, at `now` (seconds since 1970; a token is good until its expiry, not at it).
    pub fn open(
        &self,
        purpose: Purpose,
        binding: &Binding<'_>,
        token: &str,
        now: u64,
    ) -> Result<Vec<u8>, NotOurs> {
        self.open_with(purpose, binding, token, now, |value| Ok(value.to_vec()))
    }

    /// [`Self::open`], with what `read` makes of the value.
    fn open_with<T>(
        &self,
        purpose: Purpose,
        binding: &Binding<'_>,
        token: &str,
        now: u64,
        read: impl FnOnce(&[u8]) -> Result<T, NotOurs>,
    ) -> Result<T, NotOurs> {
        if token.len() > MAX_TOKEN {
            return Err(NotOurs);
        }
        let (mut few, mut many) = ([0; USUAL], Vec::new());
        let room = if token.len() <= USUAL / 3 * 4 {
            &mut few[..]
        } else {
            many.resize(base64::decoded_len_estimate(token.len()), 0);
            &mut many[..]
        };
        let length = URL_SAFE_NO_PAD
            .decode_slice(token, room)
            .map_err(|_| NotOurs)?;
        let (format, rest) = room[..length].split_first_mut().ok_or(NotOurs)?;
        let (nonce, sealed) = rest.split_first_chunk_mut::<NONCE_LEN>().ok_or(NotOurs)?;
        if *format != FORMAT {
            return Err(NotOurs);
        }
        let associated = binding.associated(purpose);
        let nonce = || Nonce::assume_unique_for_key(*nonce);
        let mut opened = Vec::new();
        let plain: &[u8] = if let [key] = &self.keys[..] {
            key.open_in_place(nonce(), Aad::from(&associated), sealed)
                .map_err(|_| NotOurs)?
        } else {
            // Every key is tried every time, so that timing tells nothing about which key sealed.
            let mut found = false;
            for key in &self.keys {
                let mut buffer = sealed.to_vec();
                if let Ok(plain) = key.open_in_place(nonce(), Aad::from(&associated), &mut buffer) {
                    opened = plain.to_vec();
                    found = true;
                }
            }
            if !found {
                return Err(NotOurs);
            }
            &opened
        };
        let (expires, value) = plain.split_first_chunk::<8>().ok_or(NotOurs)?;
        if now >= u64::from_be_bytes(*expires) {
            return Err(NotOurs);
        }
        read(value)
    }

    /// [`Self::seal`] for text.
    pub fn seal_text(
        &self,
        purpose: Purpose,
        binding: &Binding<'_>,
        value: &str,
        expires: u64,
    ) -> Result<String, SealError> {
        self.seal(purpose, binding, value.as_bytes(), expires)
    }

    /// [`Self::open`] for text.
    pub fn open_text(
        &self,
        purpose: Purpose,
        binding: &Binding<'_>,
        token: &str,
        now: u64,
    ) -> Result<String, NotOurs> {
        String::from_utf8(self.open(purpose, binding, token, now)?).map_err(|_| NotOurs)
    }

    /// Seals the id of a request from server to client. The client sees a string, whatever the
    /// upstream's id was.
    pub fn seal_request_id(
        &self,
        binding: &Binding<'_>,
        id: &Id<'_>,
        expires: u64,
    ) -> Result<Id<'static>, SealError> {
        let token = self.seal_text(Purpose::ServerRequest, binding, &id.to_json(), expires)?;
        Ok(Id::String(token.into()))
    }

    /// The upstream's id of a request that the client answers.
    pub fn open_request_id(
        &self,
        binding: &Binding<'_>,
        id: &Id<'_>,
        now: u64,
    ) -> Result<Id<'static>, NotOurs> {
        let Id::String(token) = id else {
            return Err(NotOurs);
        };
        let text = self.open_text(Purpose::ServerRequest, binding, token, now)?;
        Id::from_json(&text).map(Id::into_owned).ok_or(NotOurs)
    }

    /// Makes the session that `initialize` opened: a random UUID, the negotiated version, the
    /// upstream's id if any.
    pub fn new_session(
        &self,
        version: Version,
        declared: Declared,
        upstream: Option<&str>,
    ) -> Result<Session, SealError> {
        let mut uuid = [0; 16];
        self.random.fill(&mut uuid).map_err(|_| SealError::Random)?;
        Ok(Session {
            uuid,
            version,
            declared,
            upstream: upstream.map(str::to_owned),
        })
    }

    /// The `Mcp-Session-Id` of a session, for its server and grant.
    pub fn seal_session(
        &self,
        server_uid: &str,
        grant: &str,
        session: &Session,
        expires: u64,
    ) -> Result<String, SealError> {
        let mut value = session.uuid.to_vec();
        value.push(version_byte(session.version));
        value.push(session.declared.byte());
        if let Some(upstream) = &session.upstream {
            value.push(1);
            value.extend_from_slice(upstream.as_bytes());
        } else {
            value.push(0);
        }
        self.seal(
            Purpose::Session,
            &Binding {
                server_uid,
                grant,
                ..Binding::default()
            },
            &value,
            expires,
        )
    }

    /// The session of an `Mcp-Session-Id`, if it is this server's and this grant's.
    pub fn open_session(
        &self,
        server_uid: &str,
        grant: &str,
        token: &str,
        now: u64,
    ) -> Result<Session, NotOurs> {
        let binding = Binding {
            server_uid,
            grant,
            ..Binding::default()
        };
        self.open_with(Purpose::Session, &binding, token, now, Session::read)
    }
}

impl Session {
    /// Reads what [`Sealer::seal_session`] sealed.
    fn read(value: &[u8]) -> Result<Session, NotOurs> {
        let (uuid, rest) = value.split_first_chunk::<16>().ok_or(NotOurs)?;
        let (version, declared, upstream) = match rest {
            [version, declared, 0] => (*version, *declared, None),
            [version, declared, 1, id @ ..] => {
                let id = std::str::from_utf8(id).map_err(|_| NotOurs)?;
                (*version, *declared, Some(id.to_owned()))
            }
            _ => return Err(NotOurs),
        };
        let version = Version::SESSION
            .into_iter()
            .find(|known| version_byte(*known) == version)
            .ok_or(NotOurs)?;
        Ok(Session {
            uuid: *uuid,
            version,
            declared: Declared::of_byte(declared),
            upstream,
        })
    }
}

/// Fixed: tokens outlive releases.
fn version_byte(version: Version) -> u8 {
    match version {
        Version::V2025_03_26 => 1,
        Version::V2025_06_18 => 2,
        Version::V2025_11_25 => 3,
        Version::V2026_07_28 => 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const NEW: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn names_are_the_same_for_all_who_have_the_key_and_for_nobody_else() {
        let sealer = |keys: &str| Sealer::from_key_file(keys).unwrap();
        let (old, new) = (sealer(OLD), sealer(NEW));
        let name = |sealer: &Sealer| sealer.names("digest");
        assert_eq!(name(&old), name(&sealer(OLD)));
        assert_ne!(name(&old), name(&new));
        assert_ne!(name(&old), old.names("another digest"));
        assert_ne!(name(&old), name(&Sealer::ephemeral().unwrap()));
        assert!(name(&old)[0].len() == 32 && name(&old).len() == 1);
        // While keys are changed, each replica finds what the others have named.
        let both = sealer(&format!("{NEW}\n{OLD}"));
        assert_eq!(name(&both), [name(&new), name(&old)].concat());
        let repeated = sealer(&format!("{NEW}\n{OLD}\n{NEW}\n"));
        assert_eq!(name(&repeated), name(&both));
    }

    fn sealer(file: &str) -> Sealer {
        Sealer::from_key_file(file).unwrap()
    }

    fn binding() -> Binding<'static> {
        Binding {
            server_uid: "uid",
            grant: "key:a",
            session: b"s",
            method: "tools/call",
            tool: "get_run",
            arguments_digest: b"d",
        }
    }

    #[test]
    fn a_sealed_value_opens_for_its_own_purpose_and_binding_only() {
        let sealer = sealer(NEW);
        let token = sealer
            .seal_text(Purpose::Task, &binding(), "task-1", 100)
            .unwrap();
        assert_eq!(
            sealer.open_text(Purpose::Task, &binding(), &token, 99),
            Ok("task-1".into())
        );
        assert_eq!(
            sealer.open(Purpose::Event, &binding(), &token, 99),
            Err(NotOurs)
        );
        for other in [
            Binding {
                server_uid: "other",
                ..binding()
            },
            Binding {
                grant: "key:b",
                ..binding()
            },
            Binding {
                session: b"t",
                ..binding()
            },
            Binding {
                method: "tools/list",
                ..binding()
            },
            Binding {
                tool: "delete_run",
                ..binding()
            },
            Binding {
                arguments_digest: b"e",
                ..binding()
            },
            // Moving a boundary between two parts changes the binding.
            Binding {
                server_uid: "uidk",
                grant: "ey:a",
                ..binding()
            },
        ] {
            assert_eq!(
                sealer.open(Purpose::Task, &other, &token, 99),
                Err(NotOurs),
                "{other:?}"
            );
        }
    }

    #[test]
    fn an_expired_token_does_not_open() {
        let sealer = sealer(NEW);
        let token = sealer.seal(Purpose::Event, &binding(), b"7", 100).unwrap();
        assert_eq!(
            sealer.open(Purpose::Event, &binding(), &token, 100),
            Err(NotOurs)
        );
        assert_eq!(
            sealer.open(Purpose::Event, &binding(), &token, 0),
            Ok(b"7".to_vec())
        );
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let token = sealer(OLD)
            .seal(Purpose::Event, &binding(), b"7", 100)
            .unwrap();
        let rotated = sealer(&format!("{NEW}\n\n  {OLD}\r\n"));
        assert_eq!(
            rotated.open(Purpose::Event, &binding(), &token, 1),
            Ok(b"7".to_vec())
        );
        let token = rotated.seal(Purpose::Event, &binding(), b"8", 100).unwrap();
        assert_eq!(
            sealer(NEW).open(Purpose::Event, &binding(), &token, 1),
            Ok(b"8".to_vec())
        );
        assert_eq!(
            sealer(OLD).open(Purpose::Event, &binding(), &token, 1),
            Err(NotOurs)
        );
    }

    #[test]
    fn values_of_every_length_open_with_one_key_and_with_several() {
        let (one, two) = (sealer(NEW), sealer(&format!("{OLD}\n{NEW}")));
        for length in (0..400).chain(4090..=MAX_VALUE) {
            let value = vec![7; length];
            let token = one.seal(Purpose::Event, &binding(), &value, 100).unwrap();
            for sealer in [&one, &two] {
                let opened = sealer.open(Purpose::Event, &binding(), &token, 1);
                assert_eq!(opened, Ok(value.clone()), "{length}");
                let short = sealer.open(Purpose::Event, &binding(), &token[..token.len() - 1], 1);
                assert_eq!(short, Err(NotOurs), "{length}");
            }
        }
    }

    #[test]
    fn a_changed_or_foreign_token_does_not_open() {
        let sealer = sealer(NEW);
        let token = sealer.seal(Purpose::Event, &binding(), b"7", 100).unwrap();
        for index in 0..token.len() {
            for replacement in ["A", "b", "_", "=", "é", ""] {
                let changed = format!("{}{replacement}{}", &token[..index], &token[index + 1..]);
                if changed != token {
                    assert_eq!(
                        sealer.open(Purpose::Event, &binding(), &changed, 1),
                        Err(NotOurs),
                        "{changed}"
                    );
                }
            }
        }
        for foreign in [
            "",
            "A",
            "AQ",
            &"A".repeat(100),
            &"A".repeat(1 << 20),
            "1868a90c-0000",
        ] {
            assert_eq!(
                sealer.open(Purpose::Event, &binding(), foreign, 1),
                Err(NotOurs)
            );
        }
    }

    #[test]
    fn a_session_carries_its_version_and_the_upstreams_id_as_visible_ascii() {
        let sealer = sealer(NEW);
        for version in Version::SESSION {
            for upstream in [None, Some(""), Some("1868a90c-é")] {
                let session = sealer
                    .new_session(version, Declared::of_byte(9), upstream)
                    .unwrap();
                let token = sealer.seal_session("uid", "key:a", &session, 100).unwrap();
                assert!(token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
                assert_eq!(sealer.open_session("uid", "key:a", &token, 1), Ok(session));
                assert_eq!(sealer.open_session("uid", "key:b", &token, 1), Err(NotOurs));
                assert_eq!(
                    sealer.open_session("uid2", "key:a", &token, 1),
                    Err(NotOurs)
                );
            }
        }
        let (one, two) = (
            sealer.new_session(Version::V2025_11_25, Declared::default(), None),
            sealer.new_session(Version::V2025_11_25, Declared::default(), None),
        );
        assert_ne!(one.unwrap().uuid, two.unwrap().uuid);
        let too_long = sealer
            .new_session(
                Version::V2025_11_25,
                Declared::default(),
                Some(&"x".repeat(5000)),
            )
            .unwrap();
        assert_eq!(
            sealer.seal_session("uid", "key:a", &too_long, 1),
            Err(SealError::TooLong)
        );
    }

    #[test]
    fn ids_of_server_requests_come_back_with_their_type() {
        let sealer = sealer(NEW);
        for id in [Id::Integer(7), Id::String("7".into())] {
            let sealed = sealer.seal_request_id(&binding(), &id, 100).unwrap();
            assert_eq!(
                sealer.open_request_id(&binding(), &sealed, 1),
                Ok(id.clone())
            );
            assert_eq!(sealer.open_request_id(&binding(), &id, 1), Err(NotOurs));
        }
    }

    #[test]
    fn key_files_are_read_strictly() {
        assert_eq!(Sealer::from_key_file("\n \n").unwrap_err(), KeyError::Empty);
        assert_eq!(
            Sealer::from_key_file(&format!("{NEW}\nnot base64!\n")).unwrap_err(),
            KeyError::Line(2)
        );
        assert_eq!(
            Sealer::from_key_file("AAAA").unwrap_err(),
            KeyError::Line(1)
        );
        let (one, two) = (generate_key().unwrap(), generate_key().unwrap());
        assert_ne!(one, two);
        assert!(Sealer::from_key_file(&format!("{one}\n{two}\n")).is_ok());
        assert!(!format!("{:?}", sealer(NEW)).contains("1, 1"));
    }

    proptest! {
        #[test]
        fn sealing_round_trips_and_nonsense_never_opens(value in prop::collection::vec(any::<u8>(), 0..200), nonsense in "[A-Za-z0-9_-]{0,120}") {
            let sealer = sealer(NEW);
            let token = sealer.seal(Purpose::Cursor, &binding(), &value, 10).unwrap();
            prop_assert_eq!(sealer.open(Purpose::Cursor, &binding(), &token, 1), Ok(value));
            prop_assert_eq!(sealer.open(Purpose::Cursor, &binding(), &nonsense, 1), Err(NotOurs));
        }
    }
}
