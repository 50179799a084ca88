//! Times between our form and that of the FUSE library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::TimeOrNow;

use super::image::Time;
use super::world::now;

/// For a reply.
pub fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let base = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let fraction = Duration::from_nanos(time.nanos.into());
    base.and_then(|base| base.checked_add(fraction)).unwrap_or(UNIX_EPOCH)
}

/// From a request.
///
/// fuser 0.18 decodes times before 1970 with the nanoseconds counted backwards; this undoes it.
pub fn requested(time: TimeOrNow) -> Time {
    let at = match time {
        TimeOrNow::Now => return now(),
        TimeOrNow::SpecificTime(at) => at,
    };
    match at.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(before) => {
            Time { secs: -(before.duration().as_secs() as i64), nanos: before.duration().subsec_nanos() }
        }
    }
}
