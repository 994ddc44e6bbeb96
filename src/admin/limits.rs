//! The limit fields of quotas and ceilings.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::admin::body::{BodyReader, BodySchema, read_nested};
use crate::admin::field_type::{FieldType, IntegerIn, InvalidValue, MoneyAmount};
use crate::admin::scalar::Money;
use crate::domain::limit::{Limit, Limits, Measure};
use crate::domain::money::Nano;
use crate::organization::error::FieldError;

/// One value per limit. `null` means unlimited, 0 blocks every call.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Limits)]
#[expect(clippy::struct_field_names, reason = "the names are those of the specification")]
pub struct LimitsView {
    #[schema(required)]
    daily_request_limit: Option<i64>,
    #[schema(required)]
    daily_token_limit: Option<i64>,
    #[schema(required)]
    monthly_request_limit: Option<i64>,
    #[schema(required)]
    monthly_token_limit: Option<i64>,
    #[schema(required)]
    requests_per_minute_limit: Option<i64>,
    #[schema(required)]
    tokens_per_minute_limit: Option<i64>,
    #[schema(required)]
    concurrent_calls_limit: Option<i64>,
    #[schema(required)]
    daily_spend_limit: Option<Money>,
    #[schema(required)]
    monthly_spend_limit: Option<Money>,
}

/// An object of limits.
#[derive(Debug, Clone, Copy)]
pub struct Ceiling;

const COUNT: IntegerIn = IntegerIn { min: 0, max: Limits::MAX };

impl LimitsView {
    pub fn of(limits: &Limits) -> Self {
        let money = |limit| limits.get(limit).map(Nano).map(Money);
        Self {
            daily_request_limit: limits.get(Limit::DailyRequests),
            daily_token_limit: limits.get(Limit::DailyTokens),
            monthly_request_limit: limits.get(Limit::MonthlyRequests),
            monthly_token_limit: limits.get(Limit::MonthlyTokens),
            requests_per_minute_limit: limits.get(Limit::RequestsPerMinute),
            tokens_per_minute_limit: limits.get(Limit::TokensPerMinute),
            concurrent_calls_limit: limits.get(Limit::ConcurrentCalls),
            daily_spend_limit: money(Limit::DailySpend),
            monthly_spend_limit: money(Limit::MonthlySpend),
        }
    }
}

/// Reads the limit fields of an object. Returns `None` only after an error was recorded.
pub fn read(fields: &mut BodyReader) -> Option<Limits> {
    let mut limits = Some(Limits::default());
    for limit in Limit::ALL {
        let value = match limit.measure() {
            Measure::Spend => fields
                .optional(limit.field(), MoneyAmount::NonNegative)
                .map(|money| money.map(|nano| nano.0)),
            Measure::Requests | Measure::Tokens => fields.optional(limit.field(), COUNT),
        };
        limits = limits.and_then(|limits| Some(limits.with(limit, value?)));
    }
    limits
}

/// Adds the limit fields to a schema.
pub fn describe(schema: &mut BodySchema) {
    for limit in Limit::ALL {
        match limit.measure() {
            Measure::Spend => schema.optional(limit.field(), MoneyAmount::NonNegative),
            Measure::Requests | Measure::Tokens => schema.optional(limit.field(), COUNT),
        }
    }
}

impl FieldType for Ceiling {
    type Value = Limits;
    const QUOTED: bool = false;

    fn read(&self, json: &RawValue) -> Result<Limits, InvalidValue> {
        read_nested(json, "", read)
            .map_err(|_| ("not_limits", "expected an object of limits".to_owned()))
    }

    fn read_at(&self, json: &RawValue, param: &str) -> Result<Limits, Vec<FieldError>> {
        read_nested(json, param, read)
    }

    fn schema(&self) -> RefOr<Schema> {
        let mut limits = BodySchema::default();
        describe(&mut limits);
        limits.build().into()
    }
}
