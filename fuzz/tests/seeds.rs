//! Replays the seeds of all targets.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use weft_fuzz::TARGETS;

/// Returns the seeds of a target, with their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|file| file.unwrap().path());
    let mut seeds: Vec<_> = files
        .map(|file| (file.display().to_string(), fs::read(&file).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// The seeds of one target are input of the others as well.
#[test]
fn no_seed_violates_a_property() {
    for (target, _) in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for (name, seed) in seeds {
            println!("{name}");
            for (_, check) in TARGETS {
                check(&seed);
            }
        }
    }
}

/// Without a valid resource of each kind, the fuzzer would hardly find one.
#[test]
fn seeds_have_a_resource_of_each_kind() {
    let mut kinds = BTreeSet::new();
    for (_, seed) in seeds("resource") {
        let Ok(wire) = prost::Message::decode(&seed[..]) else {
            continue;
        };
        if let Ok((key, _, _)) = weft_api::decode::resource(wire) {
            kinds.insert(key.to_string().split(['/', ' ']).next().unwrap().to_owned());
        }
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}
