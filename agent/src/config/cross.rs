//! What only two lanes together, or both ends of one, can get wrong. Compared by path alone: symlinks and mounts
//! are looked at by whoever opens a lane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::lane::VolumeSource;
use super::problem::{Problem, Problems};
use super::read::Draft;

/// Adds what is wrong to the problems.
pub fn check(drafts: &[Draft], problems: &mut Problems) {
    let volumes: Vec<PathBuf> = drafts.iter().map(|draft| draft.lane.volume.usual_place()).collect();
    let mut names = BTreeMap::new();
    let mut at_volume: BTreeMap<&Path, &Draft> = BTreeMap::new();
    let mut at_mirror: BTreeMap<&Path, &Draft> = BTreeMap::new();
    for (draft, volume) in drafts.iter().zip(&volumes) {
        let lane = &draft.lane;
        let mut named_twice = false;
        if let Some(first) = names.insert(&lane.name, draft) {
            named_twice = true;
            let problem = Problem::error(draft.named, format!("two lanes are named {}", lane.name));
            problems.push(
                problem.related(first.named, "the other one").help("each lane is one volume and one mirror"),
            );
        }
        if let Some(first) = at_mirror.insert(&lane.mirror, draft)
            && !(named_twice && first.lane.name == lane.name)
        {
            let message = format!(
                "lanes {} and {} have the same mirror, {}",
                first.lane.name,
                lane.name,
                lane.mirror.display()
            );
            let problem = Problem::error(draft.mirror, message).related(first.mirror, "the other one");
            problems
                .push(problem.help("a template tells lanes apart only if {team} and {env} are both in it"));
        }
        if let Some(first) = at_volume.insert(volume, draft)
            && !(named_twice && first.lane.name == lane.name)
        {
            let message =
                format!("lanes {} and {} have the same volume, {}", first.lane.name, lane.name, lane.volume);
            let problem = Problem::error(draft.volume, message).related(first.volume, "the other one");
            problems.push(
                problem.help("one lane carries a volume; a second copy of it belongs behind the mirror"),
            );
        }
    }
    for (draft, volume) in drafts.iter().zip(&volumes) {
        nested(draft, volume, &at_volume, &at_mirror, problems);
    }
}

/// Looks whether an end of this lane lies inside an end of any.
fn nested(
    draft: &Draft,
    volume: &Path,
    at_volume: &BTreeMap<&Path, &Draft>,
    at_mirror: &BTreeMap<&Path, &Draft>,
    problems: &mut Problems,
) {
    let mirror = draft.lane.mirror.as_path();
    let mut tell = |span, what: String, other: &Draft, there, label: &str| {
        let message = format!("{what} of lane {}", other.lane.name);
        problems.push(Problem::error(span, message).related(there, label));
    };
    let usual = |draft: &Draft| match draft.lane.volume {
        VolumeSource::Docker(_) => ", where Docker has it,",
        VolumeSource::Directory(_) => "",
    };
    let lane = &draft.lane.name;
    if let Some(other) = mirror.ancestors().find_map(|above| at_volume.get(above)) {
        let what = format!("the mirror of lane {lane} lies inside the volume{}", usual(other));
        tell(draft.mirror, what, other, other.volume, "the volume");
    }
    // Both ends in one place was told just now.
    if let Some(other) = volume.ancestors().skip(1).find_map(|above| at_mirror.get(above)) {
        let what = format!("the volume{} of lane {lane} lies inside the mirror", usual(draft));
        tell(draft.volume, what, other, other.mirror, "the mirror");
    }
    if let Some(other) = mirror.ancestors().skip(1).find_map(|above| at_mirror.get(above)) {
        let what = format!("the mirror of lane {lane} lies inside the mirror");
        tell(draft.mirror, what, other, other.mirror, "the outer one");
    }
}
