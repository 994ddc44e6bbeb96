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

use crate::admin::answer::{Answer, Stop};
use crate::admin::asked::Asked;
use crate::admin::operation::{Doc, Operations};
use crate::admin::records::{self, FILTERS};
use crate::ledger::records::{Filter, Record, Stretch};
use crate::organization::access::Seat;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::rights::Right;
use crate::organization::wallet;
use crate::tasks;

const HEAD: &str = "seq,id,type,amount,previousBalance,currentBalance,currency,requestLogId,\
    projectId,apiKeyId,model,description,reference,actor,settledBy,overage,late,priceVersion,\
    refundedAmount,createdAt\r\n";
const ROWS_A_PIECE: i64 = 500;
const PIECES_AHEAD: usize = 2;

/// A body that arrives in pieces. A piece that cannot be made breaks it off, visibly.
struct Pieces(mpsc::Receiver<Result<Bytes, io::Error>>);

impl http_body::Body for Pieces {
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
pub fn operations(operations: Operations) -> Operations {
    let doc = Doc::of(Right::ViewRecords, "Exports the wallet's records, newest first.");
    let doc = doc.query(FILTERS).text("text/csv");
    operations.add(&Method::GET, "/api/organization/wallet/records/export", export, doc)
}

async fn export(asked: Asked) -> Result<Response, Stop> {
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let filter = records::filter(&mut query);
    query.finish()?;
    let platform = &asked.visit.state.platform;
    platform.fresh().await;
    let mut begun = asked.begin(Some(&seat)).await?;
    let noted = wallet::note_export(&mut begun.work, &seat).await;
    asked.finish(begun, noted.map(|()| Answer::default())).await?;
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let platform = Arc::clone(platform);
    tasks::spawn("export", async move {
        if let Err(fault) = send(&platform, &seat, filter, &sender).await {
            tracing::error!(?fault, "an export broke off");
            // Whoever has left does not need to be told.
            let _ = sender.send(Err(io::Error::other("broken off"))).await;
        }
    });
    let body = axum::body::Body::new(Pieces(receiver));
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
async fn send(
    platform: &Platform,
    seat: &Seat,
    filter: Filter,
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<(), Denied> {
    let mut before = None;
    let mut text = HEAD.to_owned();
    loop {
        let stretch = Stretch { before, offset: 0, limit: ROWS_A_PIECE };
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
