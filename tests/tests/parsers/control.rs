//! The control protocol, both directions: what a client may send an agent, and what may come back.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use agent::control::{
    ANSWER_MAX, Acted, AgentStatus, Answer, Ask, AskedPath, REQUEST_MAX, Request, Server, ask, parse, serve,
    understand,
};
use agent::run::{LaneStatus, Phase};
use agent::why::{Class, Excepted, Known, Shown};
use harness::trees::Rng;
use proto::{LaneName, RelPath};

use super::mutate::{bytes, mutate};
use super::{Bound, run};

/// Pieces of JSON and of the protocol, sound and not.
const TOKENS: [&[u8]; 30] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"\"version\":1,",
    b"\"version\":2,",
    b"\"ask\":\"why\",",
    b"\"ask\":{\"why\":1},",
    b"\"lane\":\"a/b\",",
    b"\"lane\":\"../b\",",
    b"\"path\":[255,0],",
    b"\"path\":\"a/../b\",",
    b"\"status\"",
    b"\"refused\"",
    b"\n",
    b"\xff",
    b"\xed\xa0\x80",
    b"\"lanes\":[],",
    b"[[[[[[[[[[[[[[[[",
];

fn lane(rng: &mut Rng) -> LaneName {
    let text = *rng.pick(&["devops/blue", "a/b", "0/z-9._", "team/green"]);
    text.parse().expect("a name")
}

fn path(rng: &mut Rng) -> RelPath {
    let len = *rng.pick(&[0, 1, 5, 200, 4000]);
    let mut path = rng.bytes(len);
    path.iter_mut().filter(|byte| matches!(byte, 0 | b'/' | b'.')).for_each(|byte| *byte = b'"');
    RelPath::new(&path).expect("a path")
}

fn request(rng: &mut Rng) -> Request {
    let asks = [Ask::Status, Ask::Flush, Ask::Pause, Ask::Resume, Ask::Approve, Ask::Why];
    let mut request = Request::new(*rng.pick(&asks), None);
    if rng.percent(70) {
        request.lane = Some(lane(rng));
    }
    if rng.percent(40) {
        request.path = Some(AskedPath(path(rng)));
    }
    request
}

fn text(rng: &mut Rng) -> String {
    let len = *rng.pick(&[0, 3, 20, 300]);
    String::from_utf8_lossy(&rng.bytes(len)).into_owned()
}

fn maybe<T>(rng: &mut Rng, value: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.percent(50).then(|| value(rng))
}

fn lane_status(rng: &mut Rng) -> LaneStatus {
    let phases =
        [Phase::Opening, Phase::Resting, Phase::Cycling, Phase::Paused, Phase::Failing, Phase::Stopped];
    LaneStatus {
        lane: lane(rng),
        volume: text(rng),
        mirror: text(rng),
        phase: *rng.pick(&phases),
        phase_seconds: rng.below(1000) as f64 / 8.0,
        lag_seconds: maybe(rng, |rng| rng.below(1000) as f64 / 8.0),
        alert_after_seconds: 600.0,
        waiting: rng.bits(),
        gap: maybe(rng, text),
        capture: "fanotify".to_owned(),
        not_captured: maybe(rng, text),
        generation: rng.bits(),
        cut: maybe(rng, text),
        files: rng.bits(),
        dirs: rng.bits(),
        others: rng.bits(),
        bytes: rng.bits(),
        quarantined: rng.bits(),
        left_out: rng.bits(),
        halted: maybe(rng, text),
        error: maybe(rng, text),
        journal: maybe(rng, text),
        next_try_seconds: maybe(rng, |rng| rng.below(1000) as f64),
        published: rng.bits(),
    }
}

fn known(rng: &mut Rng) -> Known {
    let shown = |rng: &mut Rng| Shown {
        r#type: "file".to_owned(),
        size: rng.bits(),
        blake3: maybe(rng, text),
        target: maybe(rng, text),
        mode: "0644".to_owned(),
        uid: rng.bits() as u32,
        gid: rng.bits() as u32,
        mtime: text(rng),
        xattrs: (0..rng.index(3)).map(|_| text(rng)).collect(),
        volume_inode: rng.bits(),
        compared_by_content_next_time: rng.percent(50),
    };
    let excepted = |rng: &mut Rng| Excepted {
        class: if rng.percent(50) { Class::Quarantined } else { Class::LeftOut },
        reason: text(rng),
        errno: rng.bits() as i32,
        since: text(rng),
    };
    Known {
        path: text(rng),
        generation: rng.bits(),
        entry: maybe(rng, shown),
        holds: maybe(rng, Rng::bits),
        links: (0..rng.index(4)).map(|_| text(rng)).collect(),
        links_total: rng.bits(),
        exception: maybe(rng, excepted),
        hints: (0..rng.index(3)).map(|_| text(rng)).collect(),
        explained: rng.percent(50),
    }
}

fn answer(rng: &mut Rng) -> Answer {
    match rng.below(4) {
        0 => Answer::Status(AgentStatus {
            version: text(rng),
            pid: rng.bits() as u32,
            up_seconds: rng.below(1000) as f64 / 8.0,
            lanes: (0..rng.index(4)).map(|_| lane_status(rng)).collect(),
        }),
        1 => {
            let acted = |rng: &mut Rng| Acted {
                lane: lane(rng),
                generation: maybe(rng, Rng::bits),
                lag_seconds: maybe(rng, |rng| rng.below(1000) as f64),
                error: maybe(rng, text),
            };
            Answer::Acted((0..rng.index(4)).map(|_| acted(rng)).collect())
        }
        2 => Answer::Why(maybe(rng, |rng| Box::new(known(rng)))),
        _ => Answer::Refused(text(rng)),
    }
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("JSON");
    line.push(b'\n');
    line
}

/// JSON that means nothing, deep at times.
fn nonsense(rng: &mut Rng, depth: usize) -> String {
    match rng.below(if depth == 0 { 4 } else { 7 }) {
        0 => format!("\"{}\"", *rng.pick(&["version", "ask", "status", "lane", "\\u00e9", "x"])),
        1 => (*rng.pick(&["0", "1", "-1", "1e400", "0.1", "99999999999999999999999"])).to_owned(),
        2 => "null".to_owned(),
        3 => "true".to_owned(),
        4 => format!("[{}]", nonsense(rng, depth - 1)),
        5 => format!("{{\"version\":1,\"ask\":{}}}", nonsense(rng, depth - 1)),
        _ => format!("{{{}:{}}}", nonsense(rng, 0), nonsense(rng, depth - 1)),
    }
}

/// Arbitrary bytes, nonsense, or `sound` changed, cut, or made very long.
fn spoilt(rng: &mut Rng, mut sound: Vec<u8>, most: usize) -> Vec<u8> {
    match rng.below(20) {
        0 | 1 => bytes(rng, 3000),
        2 | 3 => {
            let depth = *rng.pick(&[1, 4, 40, 400]);
            let mut text = nonsense(rng, depth).into_bytes();
            text.push(b'\n');
            text
        }
        4 | 5 => {
            sound.truncate(rng.index(sound.len() + 1));
            sound
        }
        // As long as a line may be, of one kind of byte or of nested lists.
        6 if rng.percent(3) => {
            let mut long = vec![*rng.pick(b"[{\"1 \0\xff"); most - 1];
            long.push(b'\n');
            long
        }
        _ => {
            mutate(rng, &mut sound, &TOKENS);
            if rng.percent(80) && sound.last() != Some(&b'\n') {
                sound.push(b'\n');
            }
            sound
        }
    }
}

#[test]
fn requests_are_understood_or_refused() {
    let make = |rng: &mut Rng| {
        let sound = line(&request(rng));
        (spoilt(rng, sound, REQUEST_MAX as usize), ())
    };
    // A path may come as a list of numbers, each kept as a value until it is known what it is.
    run("control, requests", Bound { always: 64 << 10, times: 64 }, make, |bytes, ()| match parse(bytes) {
        Ok(request) => {
            assert_eq!(bytes.last(), Some(&b'\n'));
            assert_eq!(request.version, 1);
            assert_eq!(parse(&line(&request)), Ok(request));
        }
        Err(why) => assert!(!why.is_empty() && why.len() <= 2 * bytes.len() + 1000, "{why}"),
    });
    let sound = |rng: &mut Rng| {
        let request = request(rng);
        (line(&request), request)
    };
    run("control, sound requests", Bound { always: 64 << 10, times: 64 }, sound, |bytes, request| {
        assert!(bytes.len() as u64 <= REQUEST_MAX, "{} bytes", bytes.len());
        assert_eq!(parse(bytes), Ok(request));
    });
}

#[test]
fn answers_are_understood_or_refused() {
    let make = |rng: &mut Rng| {
        let sound = line(&answer(rng));
        (spoilt(rng, sound, 256 << 10), ())
    };
    run("control, answers", Bound { always: 64 << 10, times: 64 }, make, |bytes, ()| {
        match understand(bytes) {
            Ok(answer) => {
                assert_eq!(bytes.last(), Some(&b'\n'));
                let again = understand(&line(&answer)).expect("understood again");
                assert_eq!(line(&again), line(&answer));
            }
            Err(why) => assert!(!why.to_string().is_empty()),
        }
    });
    let sound = |rng: &mut Rng| {
        let line = line(&answer(rng));
        (line.clone(), line)
    };
    run("control, sound answers", Bound { always: 64 << 10, times: 64 }, sound, |bytes, sent| {
        assert_eq!(line(&understand(bytes).expect("understood")), sent);
    });
}

/// Says how it is, to whoever asks well.
struct Well;

impl Server for Well {
    fn answer(&self, _: Request, _: bool) -> Answer {
        Answer::Acted(Vec::new())
    }
}

/// Longer than a socket of one process to itself takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Over the socket itself: whatever a client sends, it gets an answer or is left, and the next one is served.
#[test]
fn whatever_a_client_sends_the_next_one_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let _served = serve(&socket, None, std::sync::Arc::new(Well)).unwrap();
    for case in 0..200 {
        let mut rng = Rng::new(case);
        let sound = line(&request(&mut rng));
        let mut bytes = spoilt(&mut rng, sound, REQUEST_MAX as usize);
        if case % 50 == 0 {
            // More than it reads, without an end.
            bytes = vec![b'['; 4 * REQUEST_MAX as usize];
        }
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        // It may stop listening in the middle.
        let _ = stream.write_all(&bytes);
        if case % 3 == 0 {
            drop(stream);
        } else {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut answer = Vec::new();
            let heard = std::io::Read::read_to_end(&mut stream, &mut answer);
            // What was not read of a request resets the connection; then there may be no answer.
            assert!(heard.is_err() || understand(&answer).is_ok(), "case {case}: {answer:?}");
        }
        let served = ask(&socket, &Request::new(Ask::Status, None), LIMIT);
        assert!(matches!(served, Ok(Answer::Acted(_))), "case {case}: {served:?}");
    }
}

/// The other way round: whatever calls itself an agent, a command ends, with an error that says so.
#[test]
fn whatever_an_agent_answers_the_command_ends() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let endless = vec![b'x'; 1 << 20];
    let mut rng = Rng::new(1);
    let mut answers: Vec<Vec<u8>> = (0..100)
        .map(|_| {
            let sound = line(&answer(&mut rng));
            spoilt(&mut rng, sound, 64 << 10)
        })
        .collect();
    answers.push(Vec::new());
    for bytes in answers {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.write_all(&bytes);
            });
            match (ask(&socket, &Request::new(Ask::Status, None), LIMIT), understand(&bytes)) {
                (Ok(_), Ok(_)) => {}
                // Behind its first line nothing is read.
                (Ok(_), Err(_)) => assert!(bytes.contains(&b'\n')),
                (Err(_), Ok(answer)) => assert!(matches!(answer, Answer::Refused(_)), "{answer:?}"),
                (Err(error), Err(_)) => assert!(error.to_string().contains("agent"), "{error}"),
            }
        });
    }
    // Without an end: it is heard up to its limit.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = 0;
            while stream.write_all(&endless).is_ok() {
                sent += endless.len() as u64;
            }
            assert!(sent <= 2 * ANSWER_MAX, "{sent} bytes were read");
        });
        let begun = Instant::now();
        let error = ask(&socket, &Request::new(Ask::Status, None), LIMIT).unwrap_err().to_string();
        assert!(error.contains(&format!("ended after {ANSWER_MAX} bytes")), "{error}");
        assert!(begun.elapsed() < LIMIT);
    });
}
