//! The JSON object of a limit, as a 429 and `GET /v1/limits` report it.

use serde_json::{Map, Value};

use crate::accounting::limit_state::LimitStatus;
use crate::domain::counter::Exceeded;
use crate::domain::limit::{Level, Limit, Limits, Measure, Window};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;

/// Returns the object of a limit that refused a call.
pub fn exceeded_json(level: Level, exceeded: &Exceeded) -> Value {
    let Exceeded { limit, value, used, held, requested, reset_at } = *exceeded;
    let status = LimitStatus { level, limit, value, used, held, reset_at, enforced: true };
    let mut object = common_fields(&status);
    object.insert("requested".to_owned(), amount_json(limit, requested));
    object.insert("transient".to_owned(), exceeded.transient().into());
    Value::Object(object)
}

/// Returns the object of a limit and its current usage.
pub fn status_json(status: &LimitStatus) -> Value {
    let remaining = (status.value - status.used - status.held).max(0);
    let mut object = common_fields(status);
    object.insert("remaining".to_owned(), amount_json(status.limit, remaining));
    object.insert("enforced".to_owned(), status.enforced.into());
    Value::Object(object)
}

/// Returns when the window of `limit` ends; `None` if the limit has no window.
pub fn reset_instant(limit: Limit, reset_at: UnixMs) -> Option<UnixMs> {
    (limit.window() != Window::Concurrent).then_some(reset_at)
}

/// Returns a count, or money as decimal text.
pub fn amount_text(limit: Limit, value: i64) -> String {
    match limit.measure() {
        Measure::Spend => Nano(value).to_string(),
        Measure::Requests | Measure::Tokens => value.to_string(),
    }
}

fn common_fields(status: &LimitStatus) -> Map<String, Value> {
    let limit = status.limit;
    let reset_at = reset_instant(limit, status.reset_at);
    let mut fields = Map::new();
    fields.insert("name".to_owned(), limit.field().into());
    fields.insert("level".to_owned(), status.level.name().into());
    fields.insert("limit".to_owned(), amount_json(limit, status.value));
    fields.insert("used".to_owned(), amount_json(limit, status.used));
    fields.insert("held".to_owned(), amount_json(limit, status.held));
    fields.insert("resetAt".to_owned(), reset_at.map_or(Value::Null, |at| at.to_string().into()));
    fields
}

fn amount_json(limit: Limit, value: i64) -> Value {
    match limit.measure() {
        Measure::Spend => Value::from(Nano(value).to_string()),
        Measure::Requests | Measure::Tokens => Value::from(value.min(Limits::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET_AT: UnixMs = UnixMs(1_705_314_600_000);

    fn objects(limit: Limit) -> [Value; 2] {
        let (level, value, used, held) = (Level::Project, 9, 7, 1);
        let status =
            LimitStatus { level, limit, value, used, held, reset_at: RESET_AT, enforced: true };
        let exceeded = Exceeded { limit, value, used, held, requested: 2, reset_at: RESET_AT };
        [exceeded_json(level, &exceeded), status_json(&status)]
    }

    #[test]
    fn a_concurrency_limit_has_a_null_reset() {
        for object in objects(Limit::ConcurrentCalls) {
            assert_eq!(object["resetAt"], Value::Null, "{object}");
        }
        for object in objects(Limit::DailyTokens) {
            assert_eq!(object["resetAt"], "2024-01-15T10:30:00.000Z", "{object}");
        }
    }

    #[test]
    fn both_objects_share_their_fields() {
        for limit in Limit::ALL {
            let [exceeded, status] = objects(limit);
            for name in ["name", "level", "limit", "used", "held", "resetAt"] {
                assert_eq!(exceeded[name], status[name], "{limit:?} {name}");
            }
            assert_eq!(
                exceeded["transient"],
                limit.measure() != Measure::Requests || limit.window() == Window::Concurrent
            );
            assert_eq!(status["remaining"], amount_json(limit, 1));
        }
    }
}
