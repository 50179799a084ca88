//! Shell: the questions we ask Docker, each one call that blocks up to its deadline.

use std::collections::BTreeMap;
use std::env;
use std::error::Error as StdError;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::{Answer, Question, Wire, query_escape};
use super::types::{RawContainer, RawInspected, RawVersion, RawVolume};
use super::{ApiVersion, Container, DockerError, EngineVersion, Volume, VolumeName};

/// A connection to the Docker Engine of this host, with an API version that both sides speak.
///
/// Every call blocks its thread, at most for the deadline; none may be made from async code.
#[derive(Debug)]
pub struct Docker {
    wire: Wire,
    engine: EngineVersion,
    api: ApiVersion,
}

impl Docker {
    /// How long one question may take, unless told otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(10);

    /// Where an engine listens, unless `DOCKER_HOST` says otherwise.
    pub const SOCKET: &str = "/var/run/docker.sock";

    /// Finds the engine by `DOCKER_HOST`, or at its usual place, and agrees on a version with it.
    ///
    /// # Errors
    /// `NotThisHost`, `IncompatibleApi`, or anything that says why there is no answer.
    pub fn connect() -> Result<Docker, DockerError> {
        Docker::find(Docker::DEADLINE)
    }

    /// As [`Docker::connect`], with a deadline of its own for each question.
    ///
    /// # Errors
    /// Those of [`Docker::connect`].
    pub fn find(deadline: Duration) -> Result<Docker, DockerError> {
        Docker::at(&socket_of(env::var_os("DOCKER_HOST"))?, deadline)
    }

    /// As [`Docker::connect`], with another deadline.
    ///
    /// # Errors
    /// As [`Docker::connect`].
    pub fn connect_within(deadline: Duration) -> Result<Docker, DockerError> {
        Docker::at(&socket_of(env::var_os("DOCKER_HOST"))?, deadline)
    }

    /// Agrees on a version with the engine at `socket`; no call will take longer than `deadline`.
    ///
    /// # Errors
    /// `IncompatibleApi`, or anything that says why there is no answer.
    pub fn at(socket: &Path, deadline: Duration) -> Result<Docker, DockerError> {
        let wire = Wire::new(socket, deadline)?;
        let engine = ask_version(&wire)?;
        let api = engine.agree()?;
        Ok(Docker { wire, engine, api })
    }

    /// What the engine said of itself when we connected.
    pub fn engine(&self) -> &EngineVersion {
        &self.engine
    }

    /// The version both sides speak.
    pub fn api(&self) -> ApiVersion {
        self.api
    }

    /// The engine's socket.
    pub fn socket(&self) -> &Path {
        self.wire.socket()
    }

    /// Asks whether the engine is alive.
    pub fn ping(&self) -> Result<(), DockerError> {
        let question = question("ping the Docker Engine", Method::GET, "/_ping".into());
        let act = question.act.clone();
        let answer = self.wire.ask(question)?;
        if answer.status == 200 { Ok(()) } else { Err(refused(act, &answer)) }
    }

    /// Looks a volume up. Whether its files may be used is for [`Volume::directory`] to say.
    ///
    /// # Errors
    /// `NoSuchVolume`, or anything that says why there is no answer.
    pub fn inspect_volume(&self, name: &VolumeName) -> Result<Volume, DockerError> {
        let question =
            self.question(format!("inspect volume {name}"), Method::GET, &format!("/volumes/{name}"));
        let act = question.act.clone();
        let answer = self.wire.ask(question)?;
        match answer.status {
            200 => Ok(self.decode::<RawVolume>(act, &answer)?.named(name)),
            404 => Err(DockerError::NoSuchVolume { name: name.clone() }),
            _ => Err(refused(act, &answer)),
        }
    }

    /// Creates a local volume, and answers with what is there afterwards.
    ///
    /// Docker takes the creation of a volume that exists for a success and leaves it as it was: compare the labels.
    pub fn create_volume(
        &self,
        name: &VolumeName,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, DockerError> {
        let mut question = self.question(format!("create volume {name}"), Method::POST, "/volumes/create");
        let body = serde_json::json!({ "Name": name.as_str(), "Driver": "local", "Labels": labels });
        question.body = body.to_string().into_bytes();
        let act = question.act.clone();
        let answer = self.wire.ask(question)?;
        match answer.status {
            200 | 201 => Ok(self.decode::<RawVolume>(act, &answer)?.named(name)),
            _ => Err(refused(act, &answer)),
        }
    }

    /// Removes a volume and its files.
    ///
    /// # Errors
    /// `NoSuchVolume`, `VolumeInUse`, or anything that says why there is no answer.
    pub fn remove_volume(&self, name: &VolumeName) -> Result<(), DockerError> {
        let question =
            self.question(format!("remove volume {name}"), Method::DELETE, &format!("/volumes/{name}"));
        let act = question.act.clone();
        let answer = self.wire.ask(question)?;
        match answer.status {
            200 | 204 => Ok(()),
            404 => Err(DockerError::NoSuchVolume { name: name.clone() }),
            409 => Err(DockerError::VolumeInUse { name: name.clone(), message: message_of(&answer) }),
            _ => Err(refused(act, &answer)),
        }
    }

    /// Lists the containers that refer to a volume by its name, whatever they are doing; none if there is no such
    /// volume. A container that binds the volume's directory by its path is not found.
    pub fn containers_using(&self, name: &VolumeName) -> Result<Vec<Container>, DockerError> {
        let filters = serde_json::json!({ "volume": [name.as_str()] }).to_string();
        let target = format!("/containers/json?all=true&filters={}", query_escape(&filters));
        let question =
            self.question(format!("list the containers that use volume {name}"), Method::GET, &target);
        let act = question.act.clone();
        let answer = self.wire.ask(question)?;
        match answer.status {
            200 => {
                let raw: Vec<RawContainer> = self.decode(act, &answer)?;
                Ok(raw.into_iter().map(Container::from).collect())
            }
            404 => Ok(Vec::new()),
            _ => Err(refused(act, &answer)),
        }
    }

    /// The first process of a container, as this host numbers it; nothing when it does not run, or is gone.
    ///
    /// # Errors
    /// Anything that says why there is no answer.
    pub fn container_pid(&self, id: &str) -> Result<Option<u32>, DockerError> {
        let act = format!("inspect container {}", printable(id));
        let question =
            self.question(act.clone(), Method::GET, &format!("/containers/{}/json", query_escape(id)));
        let answer = self.wire.ask(question)?;
        match answer.status {
            200 => Ok(self.decode::<RawInspected>(act, &answer)?.pid()),
            404 => Ok(None),
            _ => Err(refused(act, &answer)),
        }
    }

    fn question(&self, act: String, method: Method, target: &str) -> Question {
        question(&act, method, format!("/v{}{target}", self.api))
    }

    fn decode<T: DeserializeOwned>(&self, act: String, answer: &Answer) -> Result<T, DockerError> {
        decode(&self.wire, act, answer)
    }
}

/// The socket that `DOCKER_HOST` names.
fn socket_of(docker_host: Option<OsString>) -> Result<PathBuf, DockerError> {
    let Some(value) = docker_host.filter(|value| !value.is_empty()) else {
        return Ok(PathBuf::from(Docker::SOCKET));
    };
    match value.as_bytes().strip_prefix(b"unix://") {
        Some(path) if path.first() == Some(&b'/') => Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path))),
        _ => Err(DockerError::NotThisHost { value: value.to_string_lossy().escape_debug().to_string() }),
    }
}

/// The one question that must not name a version.
fn ask_version(wire: &Wire) -> Result<EngineVersion, DockerError> {
    let question = question("ask for the version of the Docker Engine", Method::GET, "/version".into());
    let act = question.act.clone();
    let answer = wire.ask(question)?;
    if answer.status != 200 {
        return Err(refused(act, &answer));
    }
    let raw: RawVersion = decode(wire, act.clone(), &answer)?;
    let parse = |text: &str| text.parse().map_err(|error| malformed(wire, act.clone(), Box::new(error)));
    Ok(EngineVersion {
        version: printable(raw.version.as_deref().unwrap_or("of unknown version")),
        api: parse(&raw.api_version)?,
        api_min: raw.min_api_version.map_or(Ok(ApiVersion::OLDEST), |text| parse(&text))?,
    })
}

fn question(act: &str, method: Method, target: String) -> Question {
    Question { act: act.to_owned(), method, target, body: Vec::new() }
}

fn decode<T: DeserializeOwned>(wire: &Wire, act: String, answer: &Answer) -> Result<T, DockerError> {
    serde_json::from_slice(&answer.body).map_err(|error| malformed(wire, act, Box::new(error)))
}

fn malformed(wire: &Wire, act: String, source: Box<dyn StdError + Send + Sync>) -> DockerError {
    DockerError::MalformedAnswer { act, socket: wire.socket().to_owned(), source }
}

fn refused(act: String, answer: &Answer) -> DockerError {
    DockerError::Refused { act, status: answer.status, message: message_of(answer) }
}

/// The engine's own words about an error, fit to be printed.
fn message_of(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    match serde_json::from_slice::<Said>(&answer.body) {
        Ok(said) => printable(&said.message),
        Err(_) => "(no message)".to_owned(),
    }
}

/// On one line of bounded length, without control characters.
fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars()
        .take(CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Instant;

    use super::*;

    const VERSION: &str =
        r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12","New":{"a":[null]}}"#;

    /// Answers one connection after the other with what `serve` writes, and ends when there are no more.
    struct FakeEngine {
        dir: PathBuf,
        thread: Option<thread::JoinHandle<Vec<String>>>,
    }

    type Serve = Box<dyn FnOnce(&mut dyn Write) + Send>;

    impl FakeEngine {
        fn start(answers: Vec<Serve>) -> FakeEngine {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let dir = env::temp_dir().join(format!("fake-engine-{}-{number}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            let listener = UnixListener::bind(dir.join("sock")).unwrap();
            let thread = thread::spawn(move || {
                let mut heads = Vec::new();
                for serve in answers {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                        head.push(byte[0]);
                    }
                    heads.push(String::from_utf8(head).unwrap());
                    serve(&mut stream);
                }
                heads
            });
            FakeEngine { dir, thread: Some(thread) }
        }

        fn socket(&self) -> PathBuf {
            self.dir.join("sock")
        }

        /// The request lines it was sent.
        fn asked(mut self) -> Vec<String> {
            let heads = self.thread.take().unwrap().join().unwrap();
            heads.iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
        }
    }

    impl Drop for FakeEngine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn json(status: u16, body: &str) -> Serve {
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        raw(text.into_bytes())
    }

    fn raw(bytes: Vec<u8>) -> Serve {
        Box::new(move |stream| stream.write_all(&bytes).unwrap())
    }

    fn short() -> Duration {
        Duration::from_millis(200)
    }

    fn name() -> VolumeName {
        "jenkins".parse().unwrap()
    }

    fn ask_once(serve: Serve) -> Result<Volume, DockerError> {
        let engine = FakeEngine::start(vec![json(200, VERSION), serve]);
        Docker::at(&engine.socket(), Duration::from_secs(5)).unwrap().inspect_volume(&name())
    }

    #[test]
    fn each_question_names_the_agreed_version() {
        let volume = r#"{"Name":"jenkins","Driver":"local","Mountpoint":"/v/_data","Options":null,"Labels":{"a":"b"}}"#;
        let engine = FakeEngine::start(vec![
            json(200, &VERSION.replace("1.41", "1.52").replace("1.12", "1.44")),
            json(200, "OK"),
            json(200, volume),
            json(201, volume),
            json(200, r#"[{"Id":"1","Names":["/web"],"State":"paused"}]"#),
            json(404, r#"{"message":"no such volume"}"#),
            raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ]);
        let docker = Docker::at(&engine.socket(), Duration::from_secs(5)).unwrap();
        docker.ping().unwrap();
        let volume = docker.inspect_volume(&name()).unwrap();
        assert_eq!(volume.directory().unwrap(), Path::new("/v/_data"));
        assert_eq!(docker.create_volume(&name(), &volume.labels).unwrap(), volume);
        assert_eq!(docker.containers_using(&name()).unwrap()[0].name, "web");
        assert_eq!(docker.containers_using(&name()).unwrap(), []);
        docker.remove_volume(&name()).unwrap();
        let list =
            "GET /v1.47/containers/json?all=true&filters=%7B%22volume%22%3A%5B%22jenkins%22%5D%7D HTTP/1.1";
        assert_eq!(
            engine.asked(),
            [
                "GET /version HTTP/1.1",
                "GET /_ping HTTP/1.1",
                "GET /v1.47/volumes/jenkins HTTP/1.1",
                "POST /v1.47/volumes/create HTTP/1.1",
                list,
                list,
                "DELETE /v1.47/volumes/jenkins HTTP/1.1",
            ]
        );
    }

    #[test]
    fn what_the_engine_says_no_to_is_told_apart() {
        let error = ask_once(json(404, r#"{"message":"get jenkins: no such volume"}"#)).unwrap_err();
        assert!(error.to_string().starts_with("there is no Docker volume jenkins"), "{error}");
        let error = ask_once(json(500, "{\"message\":\"it's \\u001b[2J\\n gone\"}")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot inspect volume jenkins: the Docker Engine answered 500: it's \\u{1b}[2J\\n gone"
        );
        let error = ask_once(json(502, "<html>")).unwrap_err();
        assert!(error.to_string().ends_with("502: (no message)"), "{error}");

        let engine =
            FakeEngine::start(vec![json(200, VERSION), json(409, r#"{"message":"in use - [abc]"}"#)]);
        let error =
            Docker::at(&engine.socket(), Docker::DEADLINE).unwrap().remove_volume(&name()).unwrap_err();
        assert!(
            matches!(&error, DockerError::VolumeInUse { .. }) && error.to_string().contains("[abc]"),
            "{error}"
        );
    }

    #[test]
    fn malformed_answers_are_errors() {
        for body in ["", "{", "[]", "null", "{}", r#"{"Driver":1}"#, &"[".repeat(100_000)] {
            let error = ask_once(json(200, body)).unwrap_err();
            assert!(matches!(error, DockerError::MalformedAnswer { .. }), "{body:.20} {error:?}");
        }
        for bytes in
            [&b""[..], b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"\0\0\0\0"]
        {
            let error = ask_once(raw(bytes.to_vec())).unwrap_err();
            assert!(matches!(error, DockerError::Exchange { .. }), "{bytes:?} {error:?}");
        }
        let engine = FakeEngine::start(vec![json(200, r#"{"ApiVersion":"one"}"#)]);
        let error = Docker::at(&engine.socket(), Docker::DEADLINE).unwrap_err();
        assert!(matches!(error, DockerError::MalformedAnswer { .. }), "{error:?}");
        let engine = FakeEngine::start(vec![json(200, &VERSION.replace("1.41", "1.24"))]);
        let error = Docker::at(&engine.socket(), Docker::DEADLINE).unwrap_err();
        assert!(error.to_string().contains("20.10.24 speaks API 1.12 to 1.24"), "{error}");
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let endless = || -> Serve {
            Box::new(|stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                // Until the client hangs up.
                while stream.write_all(chunk.as_bytes()).is_ok() {}
            })
        };
        let error = ask_once(endless()).unwrap_err();
        assert!(matches!(error, DockerError::AnswerTooLarge { .. }), "{error:?}");

        let headers = Box::new(|stream: &mut dyn Write| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-Filler: 0123456789012345678901234567890123456789\r\n").is_ok() {}
        });
        let error = ask_once(headers).unwrap_err();
        assert!(matches!(error, DockerError::Exchange { .. }), "{error:?}");
    }

    #[test]
    fn an_engine_that_is_slow_or_silent_costs_the_deadline() {
        // One that drips a byte now and then must not stretch it either.
        let drip = Box::new(|stream: &mut dyn Write| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while stream.write_all(b" ").is_ok() {
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        let engine = FakeEngine::start(vec![drip]);
        let begin = Instant::now();
        let error = Docker::at(&engine.socket(), short()).unwrap_err();
        assert!(matches!(error, DockerError::Timeout { .. }), "{error:?}");
        assert!(error.to_string().contains("within 0.2 s"), "{error}");

        let dir = engine.dir.join("silent");
        let _listener = UnixListener::bind(&dir).unwrap();
        let error = Docker::at(&dir, short()).unwrap_err();
        assert!(matches!(error, DockerError::Timeout { .. }), "{error:?}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_engine_is_named_with_its_socket() {
        let error = Docker::at(Path::new("/does/not/exist.sock"), short()).unwrap_err();
        assert!(
            error.to_string().starts_with("no Docker Engine at /does/not/exist.sock: is dockerd running?")
        );

        let engine = FakeEngine::start(Vec::new());
        let socket = engine.socket();
        // It serves nobody and ends; the socket's file stays.
        let mut engine = engine;
        engine.thread.take().unwrap().join().unwrap();
        let error = Docker::at(&socket, short()).unwrap_err();
        assert!(matches!(error, DockerError::NoEngine { .. }), "{error:?}");
    }

    #[test]
    fn docker_host_must_be_this_host() {
        let of = |text: &str| socket_of(Some(text.into()));
        assert_eq!(socket_of(None).unwrap(), Path::new("/var/run/docker.sock"));
        assert_eq!(of("").unwrap(), Path::new("/var/run/docker.sock"));
        assert_eq!(of("unix:///run/user/1/docker.sock").unwrap(), Path::new("/run/user/1/docker.sock"));
        for bad in ["tcp://10.0.0.1:2375", "ssh://vm2", "unix://relative", "/run/docker.sock", "\u{1b}"] {
            let error = of(bad).unwrap_err();
            assert!(error.to_string().contains("DOCKER_HOST="), "{error}");
        }
    }
}
