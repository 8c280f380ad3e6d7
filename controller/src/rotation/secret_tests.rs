use super::*;
use crate::identity::tests::now;
use crate::identity::{RootPem, new_root, read_secret};

/// The API server's part: a merge patch of a Secret.
fn patched(secret: &Secret, patch: &Value) -> Secret {
    let mut whole = serde_json::to_value(secret).unwrap();
    merge(&mut whole, patch);
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

fn secret(root: &RootPem) -> Secret {
    let data = [("tls.crt", &root.certificate), ("tls.key", &root.key)];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())));
    Secret {
        data: Some(data.into_iter().collect()),
        ..Secret::default()
    }
}

fn annotated(secret: &Secret, name: &str, value: &str) -> Secret {
    patched(secret, &json!({"metadata": {"annotations": {name: value}}}))
}

fn trust(secret: &Secret) -> Trust {
    read_secret(secret.data.as_ref().unwrap(), now()).unwrap()
}

fn roots(trust: &Trust) -> usize {
    trust.roots.valid_at(now()).count()
}

#[test]
fn rotation_passes_its_phases() {
    let (old, new) = (new_root(now()).unwrap(), new_root(now()).unwrap());
    let mut listed = secret(&old);
    let own = ByteString(old.certificate.clone().into_bytes());
    listed
        .data
        .as_mut()
        .unwrap()
        .insert("ca.crt".to_owned(), own);
    let first = annotated(&listed, REQUEST, "1");
    let before = trust(&first);
    let view = View(&first);
    assert_eq!(view.request(&Phase::Steady), Some(Ok(Request::Generate)));

    let patch = view.distributing(new.certificate.as_bytes(), new.key.as_bytes(), now());
    let second = patched(&first, &patch);
    let distributing = trust(&second).succeeding(&before, now()).unwrap();
    assert!(matches!(distributing.phase, Phase::Distributing { .. }));
    assert_eq!(distributing.authority.root(), before.authority.root());
    assert_eq!(roots(&distributing), 2);
    assert_eq!(View(&second).request(&distributing.phase), None, "answered");
    assert!(View(&second).since().is_some());

    let patch = View(&second).renewing(&distributing, now()).unwrap();
    let third = patched(&second, &patch.unwrap());
    let renewing = trust(&third).succeeding(&distributing, now()).unwrap();
    assert_eq!(renewing.phase, Phase::Renewing);
    assert_eq!(renewing.authority.root(), distributing.target());
    assert_eq!(roots(&renewing), 2);
    assert_eq!(
        roots(&trust(&third)),
        2,
        "for a controller that begins now, too"
    );

    let third = annotated(&third, "weft.dev/roots-of.weft-controller-x", "a report");
    let fourth = patched(&third, &View(&third).steady(&renewing, now()).unwrap());
    let steady = trust(&fourth).succeeding(&renewing, now()).unwrap();
    assert_eq!(steady.phase, Phase::Steady);
    assert_eq!(roots(&steady), 1);
    assert!(steady.former().is_empty());
    let annotations = fourth.metadata.annotations.as_ref().unwrap();
    assert!(
        !annotations.keys().any(|name| name.starts_with(REPORTS)),
        "{annotations:?}"
    );
    // A replica that slept through it all knows no better, and ends up the same.
    let late = trust(&fourth).succeeding(&before, now()).unwrap();
    assert_eq!(roots(&late), 1);
    for (view, trust) in [
        (&first, &before),
        (&second, &distributing),
        (&third, &renewing),
        (&fourth, &steady),
    ] {
        assert!(View(view).is_in(&trust.phase));
    }
    assert!(!View(&third).is_in(&distributing.phase));
    assert!(!View(&second).is_in(&renewing.phase));
}

#[test]
fn replaced_root_is_renewed_and_withdrawn() {
    let (old, new) = (
        secret(&new_root(now()).unwrap()),
        secret(&new_root(now()).unwrap()),
    );
    let replaced = trust(&new).succeeding(&trust(&old), now()).unwrap();
    assert_eq!(replaced.former().len(), 1);
    let next = patched(&new, &View(&new).replaced(&replaced, now()));
    let renewing = trust(&next).succeeding(&replaced, now()).unwrap();
    assert_eq!(
        (renewing.phase.clone(), roots(&renewing)),
        (Phase::Renewing, 2)
    );
    let last = patched(&next, &View(&next).steady(&renewing, now()).unwrap());
    assert_eq!(
        roots(&trust(&last).succeeding(&renewing, now()).unwrap()),
        1
    );
}

#[test]
fn second_request_during_a_rotation_is_rejected_once() {
    let asked = annotated(&secret(&new_root(now()).unwrap()), REQUEST, "2");
    let view = View(&asked);
    let Some(Err(refusal)) = view.request(&Phase::Renewing) else {
        panic!("not rejected");
    };
    assert_eq!(
        refusal.to_string(),
        "a rotation is under way (renewing): request another one when it is complete"
    );
    let progress = patched(&asked, &view.rejected(&refusal));
    assert_eq!(View(&progress).request(&Phase::Renewing), None);
    assert_eq!(
        View(&progress).request(&Phase::Steady),
        None,
        "it has to be asked again"
    );
    let again = annotated(&progress, REQUEST, "3");
    assert_eq!(
        View(&again).request(&Phase::Steady),
        Some(Ok(Request::Generate))
    );
}

#[test]
fn user_root_is_read_from_one_secret_only() {
    let plain = secret(&new_root(now()).unwrap());
    let asks = |text: &str| View(&annotated(&plain, REQUEST, text)).request(&Phase::Steady);
    assert_eq!(asks("7 from=weft-ca-next"), Some(Ok(Request::FromSecret)));
    for word in ["from=weft-injector-tls", "form=weft-ca-next"] {
        let rejected = Rejection::Word(word.to_owned());
        assert_eq!(asks(&format!("7 {word}")), Some(Err(rejected)));
    }
    assert_eq!(asks(""), None);
}

#[test]
fn reports_of_another_phase_or_root_say_nothing() {
    let text = "renewing root=00000000000000ff connected=3 trusting=3 renewed=2 waiting=shop/web-0";
    let said = annotated(
        &secret(&new_root(now()).unwrap()),
        "weft.dev/roots-of.a",
        text,
    );
    let root = |text: &str| -> RootFingerprint { text.parse().unwrap() };
    let report =
        |phase: &Phase, of: &str| View(&said).report("weft.dev/roots-of.a", phase, root(of));
    assert_eq!(report(&Phase::Renewing, "ff").unwrap().renewed, 2);
    assert_eq!(report(&Phase::Renewing, "fe"), None);
    let next = vec![1].into();
    assert_eq!(report(&Phase::Distributing { next }, "ff"), None);
    assert_eq!(
        View(&said).report("weft.dev/roots-of.b", &Phase::Renewing, root("ff")),
        None
    );
}
