//! `wallet/records/export`: the records as CSV, streamed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::records::{self, FILTERS};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, Interrupt};
use crate::ledger::records::{Record, RecordFilter, RecordRange};
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::services::Services;
use crate::organization::wallet;
use crate::tasks;

const CSV_HEADER: &str = "seq,id,type,amount,previousBalance,currentBalance,currency,requestLogId,\
    projectId,apiKeyId,model,description,reference,actor,settledBy,overage,late,priceVersion,\
    refundedAmount,createdAt\r\n";
const ROWS_PER_CHUNK: i64 = 500;
const CHUNKS_BUFFERED: usize = 2;

/// A body that arrives in pieces. A piece that cannot be made breaks it off, visibly.
struct ChunkedBody(mpsc::Receiver<Result<Bytes, io::Error>>);

impl http_body::Body for ChunkedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let doc = OperationSpec::in_organization(
        Action::ViewRecords,
        "Exports the wallet's records, newest first.",
    );
    let doc = doc.query_params(FILTERS).text_response("text/csv");
    operations.add(&Method::GET, "/api/organization/wallet/records/export", export, doc)
}

async fn export(asked: AuthenticatedRequest) -> Result<Response, Interrupt> {
    let seat = asked.org_context().await?;
    let mut query = asked.request.query();
    let filter = records::read_filter(&mut query);
    query.finish()?;
    let platform = &asked.request.state.services;
    platform.wait_caught_up().await;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let noted = wallet::audit_export(&mut begun.work, &seat).await;
    asked.finish_mutation(begun, noted.map(|()| AdminResponse::default())).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS_BUFFERED);
    let platform = Arc::clone(platform);
    tasks::spawn("export", async move {
        if let Err(fault) = send_rows(&platform, &seat, filter, &sender).await {
            tracing::error!(?fault, "an export broke off");
            // Whoever has left does not need to be told.
            let _ = sender.send(Err(io::Error::other("broken off"))).await;
        }
    });
    let body = axum::body::Body::new(ChunkedBody(receiver));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"wallet-records.csv\""),
        ),
    ];
    Ok((headers, body).into_response())
}

/// Sends piece after piece, each from the record where the last one ended.
async fn send_rows(
    platform: &Services,
    seat: &OrgContext,
    filter: RecordFilter,
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<(), UseCaseError> {
    let mut before = None;
    let mut text = CSV_HEADER.to_owned();
    loop {
        let stretch = RecordRange { before, offset: 0, limit: ROWS_PER_CHUNK };
        let (rows, _) = wallet::records(platform, seat, &filter, stretch).await?;
        for record in &rows {
            push_row(&mut text, record, &platform.settings.currency);
        }
        let gone = sender.send(Ok(Bytes::from(std::mem::take(&mut text)))).await.is_err();
        match rows.last() {
            Some(last) if !gone => before = Some(last.seq),
            _ => return Ok(()),
        }
    }
}

fn push_row(text: &mut String, record: &Record, currency: &str) {
    let id = |id: Option<String>| id.unwrap_or_default();
    let actor = record.actor.as_deref().map(serde_json::from_str::<serde_json::Value>);
    let actor = actor.and_then(Result::ok);
    let actor = actor.and_then(|actor| Some(actor.get("name")?.as_str()?.to_owned()));
    let cells = [
        record.seq.to_string(),
        record.id.to_string(),
        record.kind.name().to_owned(),
        record.amount.to_string(),
        record.previous.to_string(),
        record.current.to_string(),
        currency.to_owned(),
        id(record.call.map(|id| id.to_string())),
        id(record.project.map(|id| id.to_string())),
        id(record.key.map(|id| id.to_string())),
        record.model.clone().unwrap_or_default(),
        record.description.clone().unwrap_or_else(|| record.kind.description().to_owned()),
        record.reference.clone().unwrap_or_default(),
        actor.unwrap_or_default(),
        record.settled_by.clone().unwrap_or_default(),
        record.overage.to_string(),
        record.late.to_string(),
        record.price_version.clone().unwrap_or_default(),
        record.refunded.map(|nano| nano.to_string()).unwrap_or_default(),
        record.created_at.to_string(),
    ];
    for (at, cell) in cells.iter().enumerate() {
        if 0 < at {
            text.push(',');
        }
        push_cell(text, cell);
    }
    text.push_str("\r\n");
}

/// A cell that no spreadsheet takes for a formula. Numbers stay numbers.
fn push_cell(text: &mut String, cell: &str) {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let is_number = digits.bytes().all(|letter| letter.is_ascii_digit() || letter == b'.');
    let formula = !is_number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guarded = if formula { format!("'{cell}") } else { cell.to_owned() };
    if guarded.contains(['"', ',', '\n', '\r']) {
        text.push('"');
        text.push_str(&guarded.replace('"', "\"\""));
        text.push('"');
    } else {
        text.push_str(&guarded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_never_a_formula() {
        let cell = |cell: &str| {
            let mut text = String::new();
            push_cell(&mut text, cell);
            text
        };
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("-1.50"), "-1.50", "a balance below zero stays a number");
        assert_eq!(cell("-cmd|' /C calc'!A0"), "'-cmd|' /C calc'!A0");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("@x\ny"), "\"'@x\ny\"");
    }
}
