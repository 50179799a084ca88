//! Our Docker client against a real engine; the oracle is Docker's own client.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use agent::docker::{ApiVersion, ContainerState, Docker, DockerError, VolumeName};
use harness::docker::{Engine, NEEDS};
use harness::gate::require;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

/// One engine for all questions, since starting one takes longer than asking it everything.
#[test]
fn volumes_and_their_containers_on_a_real_engine() {
    if !require(NEEDS) {
        return;
    }
    let mut engine = Engine::start().unwrap();
    let docker = Docker::at(&engine.socket(), Docker::DEADLINE).unwrap();
    docker.ping().unwrap();
    assert!(docker.api() >= ApiVersion::OLDEST && docker.api() <= docker.engine().api);
    let version = engine.cli(&["version", "--format", "{{.Server.Version}}"]).unwrap();
    assert_eq!(docker.engine().version, version);

    a_volume_comes_and_goes(&engine, &docker);
    containers_are_found_in_every_state(&engine, &docker);
    disguised_mounts_are_refused(&engine, &docker);
    a_frozen_engine_costs_the_deadline(&engine);

    engine.stop().unwrap();
    assert!(matches!(docker.ping(), Err(DockerError::NoEngine { .. })));
}

fn a_volume_comes_and_goes(engine: &Engine, docker: &Docker) {
    let blue = name("devops_blue.1-x");
    assert!(matches!(docker.inspect_volume(&blue), Err(DockerError::NoSuchVolume { .. })));
    assert!(matches!(docker.remove_volume(&blue), Err(DockerError::NoSuchVolume { .. })));

    let labels = BTreeMap::from([("lane".to_owned(), "devops/blue \"é\"".to_owned())]);
    let made = docker.create_volume(&blue, &labels).unwrap();
    assert_eq!(made.labels, labels);
    assert_eq!(docker.inspect_volume(&blue).unwrap(), made);
    let directory = made.directory().unwrap();
    assert_eq!(
        directory.display().to_string(),
        engine.cli(&["volume", "inspect", "-f", "{{.Mountpoint}}", blue.as_str()]).unwrap()
    );
    assert_eq!(
        directory.canonicalize().unwrap(),
        engine.volumes().join(blue.as_str()).join("_data").canonicalize().unwrap()
    );
    fs::write(directory.join("file"), "content").unwrap();

    // Docker takes a second creation for a success, and leaves the volume as it was.
    assert_eq!(docker.create_volume(&blue, &BTreeMap::new()).unwrap().labels, labels);
    assert_eq!(fs::read(directory.join("file")).unwrap(), b"content");

    docker.remove_volume(&blue).unwrap();
    assert!(!directory.exists());
    assert_eq!(engine.cli(&["volume", "ls", "-q"]).unwrap(), "");
}

fn containers_are_found_in_every_state(engine: &Engine, docker: &Docker) {
    let used = name("used");
    docker.create_volume(&used, &BTreeMap::new()).unwrap();
    assert_eq!(docker.containers_using(&used).unwrap(), []);
    assert_eq!(docker.containers_using(&name("unheard-of")).unwrap(), []);

    engine.empty_image("empty").unwrap();
    let create = |container: &str, mount: &str| {
        engine
            .cli(&["create", "--name", container, "--network", "none", "-v", mount, "empty", "/none"])
            .unwrap()
    };
    let id = create("jenkins", "used:/data");
    create("other", "used2:/used");
    let containers = docker.containers_using(&used).unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!((containers[0].id.as_str(), containers[0].name.as_str()), (id.as_str(), "jenkins"));
    assert_eq!(containers[0].state, ContainerState::Created);

    let error = docker.remove_volume(&used).unwrap_err();
    assert!(matches!(&error, DockerError::VolumeInUse { message, .. } if message.contains(&id)), "{error:?}");
    engine.cli(&["rm", "jenkins", "other"]).unwrap();
    docker.remove_volume(&used).unwrap();
}

/// H4: `-o o=bind -o device=/etc` makes a volume of anything.
fn disguised_mounts_are_refused(engine: &Engine, docker: &Docker) {
    engine
        .cli(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/etc", "disguised"])
        .unwrap();
    engine.cli(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "fleeting"]).unwrap();
    for volume in ["disguised", "fleeting"] {
        let error = docker.inspect_volume(&name(volume)).unwrap().directory().unwrap_err();
        assert!(matches!(error, DockerError::MountInDisguise { .. }), "{error:?}");
        assert!(error.to_string().contains(volume), "{error}");
        docker.remove_volume(&name(volume)).unwrap();
    }
}

fn a_frozen_engine_costs_the_deadline(engine: &Engine) {
    let docker = Docker::at(&engine.socket(), Duration::from_millis(300)).unwrap();
    let pid = Pid::from_raw(engine.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let begin = Instant::now();
    let outcome = docker.ping();
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(matches!(outcome, Err(DockerError::Timeout { .. })), "{outcome:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    Docker::at(&engine.socket(), Docker::DEADLINE).unwrap().ping().unwrap();
}

/// The fixture leaves nothing: no process, no mount, no file.
#[test]
fn a_dropped_engine_leaves_nothing() {
    if !require(NEEDS) {
        return;
    }
    // In other namespaces, as it will be on a host of the lab.
    let engine = Engine::start_with(["unshare", "--net", "--"].map(str::to_owned).to_vec()).unwrap();
    let place = engine.socket().parent().unwrap().to_owned();
    engine.cli(&["volume", "create", "left"]).unwrap();
    drop(engine);
    assert!(!place.exists());
    let place = place.display().to_string();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&place));
    for entry in fs::read_dir("/proc").unwrap() {
        // A process may end while it is looked at.
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&line).contains(&place),
            "{:?} is left",
            String::from_utf8_lossy(&line)
        );
    }
}
