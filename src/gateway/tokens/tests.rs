//! The attacks of RFC 8725, and what valid tokens prove. Tokens are signed here, with ring.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://sso.example";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair of the issuer: Ed25519, or P-256.
enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
}

impl Signer {
    fn ed() -> Self {
        let random = SystemRandom::new();
        let der = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
    }

    fn ec() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Signer::Ec(EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Signer::Ed(_) => "EdDSA",
            Signer::Ec(_) => "ES256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(pair.public_key())})
            }
            Signer::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig",
                    "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
        }
    }

    fn sign(&self, message: &str) -> Vec<u8> {
        match self {
            Signer::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Signer::Ec(pair) => {
                let signed = pair.sign(&SystemRandom::new(), message.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        format!("{message}.{}", encoded(self.sign(&message)))
    }

    /// A token with these claims changed; null takes one away.
    fn with(&self, changes: Value) -> String {
        self.token(
            &json!({"alg": self.algorithm(), "kid": "one"}),
            &claims(changes),
        )
    }
}

fn after(seconds: i64) -> i64 {
    Timestamp::now().as_second() + seconds
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": "mlflow-gateway", "sub": "alice",
        "exp": after(300), "iat": after(0)});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

fn keys(jwks: &[Value]) -> Option<Arc<KeySet>> {
    let text = json!({ "keys": jwks }).to_string();
    KeySet::parse(text.as_bytes()).ok().map(Arc::new)
}

fn issuer(jwks: &[Value]) -> Arc<Issuer> {
    Arc::new(Issuer {
        kind: IssuerKind::Provider {
            name: "corp".to_owned(),
            claim: "sub".to_owned(),
        },
        issuer: ISSUER.to_owned(),
        audiences: vec!["mlflow-gateway".to_owned(), "second".to_owned()],
        scopes: Vec::new(),
        keys: IssuerKeys::Fixed(keys(jwks)),
    })
}

fn outcome(issuer: &Arc<Issuer>, token: &str) -> Result<String, NotProven> {
    let proven = issuer.verify(token, Timestamp::now())?;
    Ok(proven.caller.grant.clone())
}

#[test]
fn a_valid_token_names_its_caller_with_groups_and_claims() {
    for signer in [Signer::ed(), Signer::ec()] {
        let issuer = issuer(&[signer.jwk("one")]);
        let token = signer.with(json!({"groups": ["ops", 7, "ml"], "department": "ml"}));
        let proven = issuer.verify(&token, Timestamp::now()).unwrap();
        assert_eq!(proven.caller.grant, "jwt:corp/alice");
        assert_eq!(proven.caller.kind.as_str(), "jwt");
        assert_eq!(proven.caller.groups, ["ops", "ml"]);
        assert_eq!(proven.caller.claims["department"], "ml");
        assert!(proven.expires.as_second() >= after(300));
        // Without a `kid`, and with several audiences of which one is ours.
        let header = json!({"alg": signer.algorithm(), "typ": "at+jwt"});
        let token = signer.token(&header, &claims(json!({"aud": ["other", "second"]})));
        assert_eq!(outcome(&issuer, &token).unwrap(), "jwt:corp/alice");
    }
}

#[test]
fn a_token_must_carry_the_claims_that_it_is_judged_by() {
    let signer = Signer::ed();
    let issuer = issuer(&[signer.jwk("one")]);
    let wrong = [
        json!({"aud": "another"}),
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"aud": ["mlflow-gateway ", "MLFLOW-GATEWAY"]}),
        json!({"aud": {"mlflow-gateway": true}}),
        json!({"exp": null}),
        json!({"exp": "never"}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"nbf": after(120)}),
        json!({"nbf": "soon"}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": ["alice"]}),
        json!({"sub": "a".repeat(257)}),
        json!({"sub": "alice\nbob"}),
        json!({"sub": "alice\u{202e}bob"}),
    ];
    for changes in wrong {
        let token = signer.with(changes.clone());
        assert_eq!(
            outcome(&issuer, &token),
            Err(NotProven::Invalid),
            "{changes}"
        );
    }
    let expired = signer.with(json!({"exp": after(-61)}));
    assert_eq!(outcome(&issuer, &expired), Err(NotProven::Expired));
    // Without a valid signature nothing is known of its time.
    let other = Signer::ed().with(json!({"exp": after(-61)}));
    assert_eq!(outcome(&issuer, &other), Err(NotProven::Invalid));
    for foreign in [
        json!({"iss": "https://sso.example/"}),
        json!({"iss": null}),
        json!({"iss": [ISSUER]}),
        json!({"iss": "https://evil.example"}),
    ] {
        let token = signer.with(foreign.clone());
        assert_eq!(
            outcome(&issuer, &token),
            Err(NotProven::Foreign),
            "{foreign}"
        );
    }
    // The clocks may differ by a minute.
    for near in [json!({"exp": after(-50)}), json!({"nbf": after(50)})] {
        assert!(
            outcome(&issuer, &signer.with(near.clone())).is_ok(),
            "{near}"
        );
    }
}

#[test]
fn no_key_of_the_token_itself_and_no_weak_algorithm_is_believed() {
    let (signer, attacker) = (Signer::ed(), Signer::ed());
    let issuer = issuer(&[signer.jwk("one"), Signer::ec().jwk("two")]);
    let public = signer.jwk("one")["x"].as_str().unwrap().to_owned();
    let header = |more: Value| {
        let mut header = json!({"alg": "EdDSA", "kid": "one"});
        header
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        header
    };
    // Signed by another key that the token itself brings, or says where to fetch.
    for brings in [
        json!({"jwk": attacker.jwk("one")}),
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/chain"}),
        json!({"x5c": ["MIIB"]}),
        json!({"kid": "../../../etc/passwd"}),
        json!({"kid": "one' OR '1'='1"}),
        json!({"kid": ""}),
        json!({}),
    ] {
        let token = attacker.token(&header(brings.clone()), &claims(json!({})));
        assert!(outcome(&issuer, &token).is_err(), "{brings}");
    }
    // Not signed, or signed with the public key as an HMAC secret.
    let body = encoded(claims(json!({})).to_string());
    for alg in [
        "none", "None", "NONE", "", "HS256", "HS384", "HS512", "ES512", "RSA1_5",
    ] {
        let message = format!(
            "{}.{body}",
            encoded(header(json!({"alg": alg})).to_string())
        );
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
        let mac = encoded(ring::hmac::sign(&secret, message.as_bytes()));
        for signature in ["", &mac] {
            let token = format!("{message}.{signature}");
            assert_eq!(outcome(&issuer, &token), Err(NotProven::Invalid), "{alg}");
        }
    }
    // The algorithm of another key of the set.
    for alg in ["ES256", "RS256", "PS256"] {
        let token = signer.token(&header(json!({"alg": alg})), &claims(json!({})));
        assert!(outcome(&issuer, &token).is_err(), "{alg}");
    }
    // What no extension of ours covers, a nested token, a token of another kind.
    for odd in [
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"cty": "JWT"}),
        json!({"typ": "logout+jwt"}),
        json!({"typ": "dpop+jwt"}),
        json!({"typ": "secevent+jwt"}),
    ] {
        let token = signer.token(&header(odd.clone()), &claims(json!({})));
        assert_eq!(outcome(&issuer, &token), Err(NotProven::Invalid), "{odd}");
    }
    // What only points elsewhere is ignored where the signature is the issuer's.
    let token = signer.token(
        &header(json!({"jku": "https://evil.example"})),
        &claims(json!({})),
    );
    assert!(outcome(&issuer, &token).is_ok());
}

#[test]
fn a_changed_cut_or_oversized_token_proves_nothing() {
    let signer = Signer::ed();
    let issuer = issuer(&[signer.jwk("one")]);
    let token = signer.with(json!({}));
    let parts: Vec<&str> = token.split('.').collect();
    let forged = encoded(claims(json!({"sub": "root"})).to_string());
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{forged}.{}", parts[0], parts[2]),
        format!("{token}."),
        format!("{token}.{}.{}", parts[1], parts[2]),
        format!("{token}A"),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        signer.with(json!({"padding": "x".repeat(16 << 10)})),
        signer.with(json!({"iss": "https://sso.example\u{0}"})),
    ] {
        assert!(outcome(&issuer, &bad).is_err(), "{bad:.60}");
    }
    // Each byte of the signature counts.
    let mut signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    for at in 0..signature.len() {
        signature[at] ^= 1;
        let token = format!("{}.{}.{}", parts[0], parts[1], encoded(&signature));
        assert_eq!(outcome(&issuer, &token), Err(NotProven::Invalid), "{at}");
        signature[at] ^= 1;
    }
}

#[test]
fn keys_that_do_not_sign_are_left_out_of_a_set() {
    let signer = Signer::ed();
    let with = |name: &str, value: Value| {
        let mut jwk = signer.jwk("one");
        jwk[name] = value;
        jwk
    };
    let small = encoded([0xff_u8; 128]);
    for unusable in [
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("alg", json!("RS256")),
        with("alg", json!("HS256")),
        with("kty", json!("oct")),
        with("crv", json!("X25519")),
        json!({"kty": "oct", "kid": "one", "k": encoded("0123456789abcdef0123456789abcdef")}),
        json!({"kty": "RSA", "kid": "one", "n": small, "e": "AQAB"}),
        json!({"kty": "unheard-of", "kid": "one"}),
        json!("a string"),
        json!(null),
    ] {
        assert!(
            keys(std::slice::from_ref(&unusable)).is_none(),
            "{unusable}"
        );
        // They do not keep the others from being used.
        let issuer = issuer(&[unusable, signer.jwk("one")]);
        assert!(outcome(&issuer, &signer.with(json!({}))).is_ok());
    }
    for text in [&b"{}"[..], b"[]", b"", b"{\"keys\": 7}", b"\xff"] {
        assert!(KeySet::parse(text).is_err());
    }
}

#[test]
fn an_unknown_key_is_told_apart_from_a_bad_signature() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let trusted = issuer(&[old.jwk("one")]);
    let header = json!({"alg": "EdDSA", "kid": "two"});
    let token = new.token(&header, &claims(json!({})));
    assert_eq!(outcome(&trusted, &token), Err(NotProven::UnknownKey));
    assert_eq!(outcome(&issuer(&[]), &token), Err(NotProven::UnknownKey));
    let rotated = issuer(&[old.jwk("one"), new.jwk("two")]);
    assert!(outcome(&rotated, &token).is_ok());
    assert!(outcome(&rotated, &old.with(json!({}))).is_ok());
}

#[test]
fn service_accounts_are_named_as_kubernetes_names_them() {
    let signer = Signer::ec();
    let accounts = Arc::new(Issuer {
        kind: IssuerKind::ServiceAccount,
        issuer: ISSUER.to_owned(),
        audiences: vec!["portcullis:ml/mlflow".to_owned()],
        scopes: Vec::new(),
        keys: IssuerKeys::Fixed(keys(&[signer.jwk("one")])),
    });
    let of =
        |sub: &str, aud: &str| outcome(&accounts, &signer.with(json!({"sub": sub, "aud": [aud]})));
    let ours = "portcullis:ml/mlflow";
    assert_eq!(
        of("system:serviceaccount:ml:trainer", ours).unwrap(),
        "serviceaccount:ml/trainer"
    );
    for (sub, aud) in [
        (
            "system:serviceaccount:ml:trainer",
            "https://kubernetes.default.svc",
        ),
        ("system:serviceaccount:ml:trainer", "portcullis:ml/other"),
        ("system:serviceaccount:ml", ours),
        ("system:serviceaccount::trainer", ours),
        ("system:serviceaccount:ml:", ours),
        ("system:serviceaccount:ml:a:b", ours),
        ("system:serviceaccount:ml/x:trainer", ours),
        ("system:serviceaccount:ML:Trainer", ours),
        ("system:node:worker", ours),
        ("alice", ours),
    ] {
        assert_eq!(of(sub, aud), Err(NotProven::Invalid), "{sub} {aud}");
    }
    let token = signer.with(json!({"sub": "system:serviceaccount:ml:trainer", "aud": ours}));
    let groups = &accounts
        .verify(&token, Timestamp::now())
        .unwrap()
        .caller
        .groups;
    assert_eq!(
        *groups,
        ["system:serviceaccounts", "system:serviceaccounts:ml"]
    );
}

#[test]
fn a_required_scope_is_told_apart_and_read_in_every_usual_form() {
    let signer = Signer::ed();
    let mut strict = Arc::into_inner(issuer(&[signer.jwk("one")])).unwrap();
    strict.scopes = vec!["mcp:read".to_owned(), "mcp:write".to_owned()];
    let strict = Arc::new(strict);
    for enough in [
        json!({"scope": "mcp:write other mcp:read"}),
        json!({"scp": ["mcp:read", "mcp:write"]}),
        json!({"scp": "mcp:read mcp:write"}),
    ] {
        assert!(
            outcome(&strict, &signer.with(enough.clone())).is_ok(),
            "{enough}"
        );
    }
    for lacking in [
        json!({}),
        json!({"scope": "mcp:read"}),
        json!({"scope": "mcp:read mcp:writer"}),
        json!({"scope": "MCP:READ MCP:WRITE"}),
        json!({"scope": ["mcp:read"], "scp": ["mcp:write"]}),
    ] {
        let token = signer.with(lacking.clone());
        assert_eq!(outcome(&strict, &token), Err(NotProven::Scope), "{lacking}");
    }
}

#[test]
fn what_was_proven_ends_with_the_token_with_its_key_and_with_its_issuer() {
    let (signer, other) = (Signer::ed(), Signer::ed());
    let trusted = issuer(&[signer.jwk("one")]);
    let now = Timestamp::now();
    let proven = trusted.verify(&signer.with(json!({})), now).unwrap();
    let late = now + SignedDuration::from_secs(300 + 61);
    assert!(proven.holds(now) && !proven.holds(late));
    // The same issuer with more keys, as after a change of the policy or a rotation.
    let rotated = issuer(&[other.jwk("two"), signer.jwk("one")]);
    assert!(proven.is_accepted_by(&[rotated], now));
    assert!(!proven.is_accepted_by(&[issuer(&[other.jwk("one")])], now));
    assert!(!proven.is_accepted_by(&[], now));
    let mut narrower = Arc::into_inner(issuer(&[signer.jwk("one")])).unwrap();
    narrower.audiences.pop();
    assert!(!proven.is_accepted_by(&[Arc::new(narrower)], now));

    let verified = VerifiedTokens::default();
    let proven = Arc::new(proven);
    verified.insert([1; 32], Arc::clone(&proven), now);
    assert!(verified.get(&[1; 32], now).is_some());
    assert!(verified.get(&[2; 32], now).is_none());
    assert!(verified.get(&[1; 32], late).is_none());
    for number in 0_u32..5_000 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        verified.insert(hash, Arc::clone(&proven), now);
    }
    assert!(verified.len() <= 4_096);
}
