#![allow(clippy::unwrap_used)]

use super::*;
use crate::provision::render::tests::{provision, settings};

const KEY: &str = "front-weft";

fn seen(owner: &str) -> ObservedObject {
    ObservedObject {
        uid: "o-1".into(),
        owner: Some(owner.into()),
        class: Some("weft".into()),
        version: "1".into(),
        deleting: false,
    }
}

fn id(kind: Kind) -> ObjectId {
    (kind, ObjectKey::new("shop", KEY))
}

/// What is planned for the Gateway, as kinds and whether they are claimed.
fn planned(
    provision: &Provision,
    observed: &[(Kind, ObservedObject)],
    applied: &HashMap<ObjectId, Applied>,
) -> Result<Vec<(Kind, &'static str)>, String> {
    let mut cluster = Observed::default();
    let objects = observed
        .iter()
        .map(|(kind, seen)| (id(*kind), seen.clone()));
    cluster.objects = objects.collect();
    let mut works = plan(
        std::slice::from_ref(provision),
        &settings(),
        &cluster,
        applied,
    );
    let Some(work) = works.pop() else {
        return Ok(Vec::new());
    };
    let steps = work.steps?.into_iter();
    Ok(steps
        .map(|step| match step {
            Step::Apply(Apply { id, claim, .. }) => (id.0, if claim { "claim" } else { "apply" }),
            Step::Delete(Delete { id, .. }) => (id.0, "delete"),
        })
        .collect())
}

/// Everything applied, as it is seen right after.
fn applied(provision: &Provision) -> (Vec<(Kind, ObservedObject)>, HashMap<ObjectId, Applied>) {
    let rendered = render(provision, &settings());
    let applied = rendered.iter().map(|(kind, object)| {
        let digest = digest(object);
        let version = "1".to_owned();
        let at = Instant::now();
        (
            id(*kind),
            Applied {
                digest,
                version,
                at,
            },
        )
    });
    let observed = rendered.iter().map(|(kind, _)| (*kind, seen("u-1")));
    (observed.collect(), applied.collect())
}

#[test]
fn absent_objects_are_claimed_in_order() {
    let steps = planned(&provision(), &[], &HashMap::new()).unwrap();
    let expected = [
        (Kind::ServiceAccount, "claim"),
        (Kind::Service, "claim"),
        (Kind::Deployment, "claim"),
        (Kind::DisruptionBudget, "claim"),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn no_difference_needs_no_step() {
    let (observed, applied) = applied(&provision());
    assert_eq!(planned(&provision(), &observed, &applied), Ok(vec![]));
}

#[test]
fn object_that_was_just_applied_is_not_applied_again() {
    let (mut observed, applied) = applied(&provision());
    observed.remove(1);
    assert_eq!(planned(&provision(), &observed, &applied), Ok(vec![]));
}

#[test]
fn changed_objects_are_applied() {
    let (mut observed, applied) = applied(&provision());
    let mut other = provision();
    other.service.ports.pop();
    let steps = planned(&other, &observed, &applied).unwrap();
    assert_eq!(steps, [(Kind::Service, "apply")]);
    observed[2].1.version = "2".into();
    let steps = planned(&provision(), &observed, &applied).unwrap();
    assert_eq!(steps, [(Kind::Deployment, "apply")]);
}

#[test]
fn object_of_another_owner_is_an_obstacle() {
    let (mut observed, applied) = applied(&provision());
    observed[1].1 = seen("u-0");
    let obstacle = planned(&provision(), &observed, &applied).unwrap_err();
    assert!(
        obstacle.starts_with("Service shop/front-weft exists and was not made for this Gateway"),
        "{obstacle}"
    );
    observed[1].1 = ObservedObject {
        deleting: true,
        ..seen("u-1")
    };
    let obstacle = planned(&provision(), &observed, &applied).unwrap_err();
    assert!(obstacle.contains("is being deleted"), "{obstacle}");
}

#[test]
fn unwanted_autoscaler_is_deleted_if_the_gateway_owns_it() {
    let (mut observed, applied) = applied(&provision());
    observed.push((Kind::Autoscaler, seen("u-1")));
    let steps = planned(&provision(), &observed, &applied).unwrap();
    assert_eq!(steps, [(Kind::Autoscaler, "delete")]);
    observed.last_mut().unwrap().1 = seen("u-0");
    assert_eq!(planned(&provision(), &observed, &applied), Ok(vec![]));
}

#[test]
fn objects_of_a_former_class_are_outdated() {
    let mut observed = Observed::default();
    observed.objects = HashMap::from([
        (id(Kind::Service), seen("u-1")),
        (id(Kind::Deployment), seen("u-9")),
    ]);
    let classes = |class: &str| BTreeMap::from([("u-1".to_owned(), class.to_owned())]);
    assert_eq!(outdated(&observed, &classes("weft")), []);
    let gone = Delete {
        id: id(Kind::Service),
        uid: "o-1".into(),
    };
    assert_eq!(outdated(&observed, &classes("other")), [gone]);
}
