//! `sys::fanotify`'s parser, held against the generator that knows what it wrote.

use harness::trees::Rng;
use sys::fanotify::{Events, Mask, handle, key};

use super::mutate::{bytes, mutate};
use super::{Bound, run};

const METADATA: usize = 24;
const FID: u8 = 1;
const DFID_NAME: u8 = 2;
const DFID: u8 = 3;
const OLD_DFID_NAME: u8 = 10;
const NEW_DFID_NAME: u8 = 12;
/// Records that say nothing of where: a process, an error.
const PASSED: [u8; 2] = [4, 5];
/// Records that no kernel sends to a group like ours, or that are not made up yet.
const UNKNOWN: [u8; 5] = [0, 6, 7, 11, 200];

/// What an event should be read as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Meant {
    mask: u64,
    at: Option<(Vec<u8>, Vec<u8>)>,
    to: Option<(Vec<u8>, Vec<u8>)>,
    object: Option<Vec<u8>>,
    unknown: bool,
}

/// One record as the kernel writes it: what the handle stands for is put into `meant`.
fn record(rng: &mut Rng, meant: &mut Meant) -> Vec<u8> {
    let kind = match rng.below(10) {
        0 => *rng.pick(&UNKNOWN),
        1 => *rng.pick(&PASSED),
        _ => *rng.pick(&[FID, DFID_NAME, DFID, OLD_DFID_NAME, NEW_DFID_NAME]),
    };
    let mut body = Vec::new();
    if UNKNOWN.contains(&kind) || PASSED.contains(&kind) {
        meant.unknown |= UNKNOWN.contains(&kind);
        let len = 4 * rng.index(8);
        body = rng.bytes(len);
    } else {
        let len = *rng.pick(&[0, 1, 4, 8, 8, 8, 12, 12, 16, 20, 127, 128]);
        body.extend(rng.bytes(8));
        body.extend((len as u32).to_ne_bytes());
        body.extend((rng.bits() as i32).to_ne_bytes());
        body.extend(rng.bytes(len));
        let key = body.clone();
        let mut name = Vec::new();
        if matches!(kind, DFID_NAME | OLD_DFID_NAME | NEW_DFID_NAME) {
            let len = *rng.pick(&[1, 2, 7, 40, 255]);
            name = rng.bytes(len);
            name.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'x');
            body.extend(&name);
            body.push(0);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        match kind {
            FID => meant.object = Some(key),
            DFID => meant.at = Some((key, b".".to_vec())),
            NEW_DFID_NAME => meant.to = Some((key, name)),
            _ => meant.at = Some((key, name)),
        }
    }
    let mut record = vec![kind, rng.bits() as u8];
    record.extend(((4 + body.len()) as u16).to_ne_bytes());
    record.extend(body);
    record
}

fn event(rng: &mut Rng) -> (Vec<u8>, Meant) {
    let mut meant = Meant { mask: rng.bits(), ..Meant::default() };
    let records: Vec<u8> = (0..rng.index(5)).flat_map(|_| record(rng, &mut meant)).collect();
    // Newer kernels may write a longer fixed part.
    let metadata = METADATA + if rng.percent(10) { 8 } else { 0 };
    let mut bytes = ((metadata + records.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend([3, rng.bits() as u8]);
    bytes.extend((metadata as u16).to_ne_bytes());
    bytes.extend(meant.mask.to_ne_bytes());
    bytes.extend(rng.bytes(metadata - bytes.len()));
    bytes.extend(records);
    (bytes, meant)
}

fn buffer(rng: &mut Rng) -> (Vec<u8>, Vec<Meant>) {
    let events: Vec<_> = (0..rng.index(6)).map(|_| event(rng)).collect();
    let (bytes, meant): (Vec<Vec<u8>>, Vec<Meant>) = events.into_iter().unzip();
    (bytes.concat(), meant)
}

/// Sound buffers are read as they were written; a zeroed rest ends them.
#[test]
fn what_the_kernel_writes_is_read_as_it_was_meant() {
    let make = |rng: &mut Rng| {
        let (mut bytes, meant) = buffer(rng);
        let whole = bytes.len();
        if rng.percent(30) {
            bytes.resize(whole + rng.index(64), 0);
        }
        (bytes, (meant, whole))
    };
    // What is compared is made here: the parser itself takes nothing.
    run("events, sound", Bound { always: 64 << 10, times: 8 }, make, |bytes, (meant, whole)| {
        let mut events = Events::new(bytes);
        let place = |place: sys::fanotify::Place<'_>| (place.key.to_vec(), place.name.to_vec());
        for meant in meant {
            let event = events.next().expect("an event").expect("a sound one");
            let read = Meant {
                mask: event.mask.0,
                at: event.at.map(place),
                to: event.to.map(place),
                object: event.object.map(<[u8]>::to_vec),
                unknown: event.unknown,
            };
            assert_eq!(read, meant);
        }
        // Less than four zeros are no length: what is cut short is told.
        let rest = &bytes[whole..];
        assert_eq!(events.position(), whole);
        match events.next() {
            None => assert!(rest.is_empty() || rest.len() >= 4),
            Some(last) => assert!(last.is_err() && (1..4).contains(&rest.len())),
        }
    });
}

/// Whatever comes: it ends, with at most one error and that one last; nothing is allocated.
#[test]
fn no_bytes_harm_the_parser_of_events() {
    let make = |rng: &mut Rng| {
        let input = match rng.below(10) {
            0 => bytes(rng, 2000),
            // A sound head and anything behind it, with a length that fits or lies.
            1..=3 => {
                let mut event = event(rng).0;
                event.truncate(METADATA);
                event.extend(bytes(rng, 400));
                if rng.percent(70) {
                    let len = event.len() as u32;
                    event[..4].copy_from_slice(&len.to_ne_bytes());
                }
                event
            }
            _ => {
                let mut bytes = buffer(rng).0;
                mutate(rng, &mut bytes, &[]);
                bytes
            }
        };
        (input, ())
    };
    run("events, any bytes", Bound { always: 0, times: 0 }, make, |bytes, ()| {
        let mut events = Events::new(bytes);
        let (mut at, mut count) = (0, 0);
        while let Some(event) = events.next() {
            count += 1;
            assert!(count <= bytes.len() / METADATA + 1, "it does not end");
            match event {
                Ok(event) => {
                    assert!(events.position() >= at + METADATA && events.position() <= bytes.len());
                    at = events.position();
                    let keys = [event.at, event.to].into_iter().flatten().map(|place| place.key);
                    for key in keys.chain(event.object) {
                        assert!((16..=16 + 128).contains(&key.len()), "{}", key.len());
                    }
                    let _ = event.mask.any(Mask::OVERFLOW);
                }
                Err(error) => {
                    assert_eq!((error.at, events.position()), (at, at));
                    assert_eq!(events.next(), None, "it goes on behind an error");
                    break;
                }
            }
        }
        assert_eq!(events.next(), None);
    });
}

/// A key is what the kernel wrote of a handle: there and back it is the same bytes; what is no key is no panic.
#[test]
fn keys_and_handles_are_the_same_thing() {
    let make = |rng: &mut Rng| {
        let mut meant = Meant::default();
        while meant.object.is_none() {
            record(rng, &mut meant);
        }
        let any = bytes(rng, 200);
        (any, meant.object.unwrap_or_default())
    };
    run("events, keys", Bound { always: 4096, times: 4 }, make, |any, whole| {
        assert_eq!(&*key(&handle(&whole)), &whole[..]);
        let _ = handle(any).ino();
        for cut in 0..whole.len().min(20) {
            let _ = key(&handle(&whole[..cut]));
        }
    });
}
