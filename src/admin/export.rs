//! `wallet/records/export`: streams the records as CSV.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{HeaderValue, header};
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

/// A response body fed by a channel. An error ends the body early, so that the client sees an
/// incomplete response.
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

pub fn routes(routes: Routes) -> Routes {
    let spec = OperationSpec::in_organization(
        Action::ViewRecords,
        "Exports the wallet's records, newest first.",
    );
    let spec = spec.query_params(FILTERS).text_response("text/csv");
    routes.get("/api/organization/wallet/records/export", export, spec)
}

async fn export(request: AuthenticatedRequest) -> Result<Response, Interrupt> {
    let org = request.org_context().await?;
    let mut query = request.query();
    let filter = records::read_filter(&mut query);
    query.finish()?;
    let services = &request.state.services;
    services.wait_caught_up().await;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = wallet::audit_export(&mut mutation.work, &org).await;
    request.finish_mutation(mutation, result.map(|()| AdminResponse::default())).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS_BUFFERED);
    let services = Arc::clone(services);
    tasks::spawn("export", async move {
        if let Err(error) = send_rows(&services, &org, filter, &sender).await {
            tracing::error!(?error, "record export failed");
            // A client that has disconnected needs no error.
            let _ = sender.send(Err(io::Error::other("export failed"))).await;
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

/// Sends the records in batches. Each batch starts after the last record of the previous one.
async fn send_rows(
    services: &Services,
    org: &OrgContext,
    filter: RecordFilter,
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> Result<(), UseCaseError> {
    let mut before = None;
    let mut text = CSV_HEADER.to_owned();
    loop {
        let range = RecordRange { before, offset: 0, limit: ROWS_PER_CHUNK };
        let (rows, _) = wallet::records(services, org, &filter, range).await?;
        for record in &rows {
            push_row(&mut text, record, &services.settings.currency);
        }
        let is_disconnected =
            sender.send(Ok(Bytes::from(std::mem::take(&mut text)))).await.is_err();
        match rows.last() {
            Some(last) if !is_disconnected => before = Some(last.seq),
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
    for (index, cell) in cells.iter().enumerate() {
        if 0 < index {
            text.push(',');
        }
        push_cell(text, cell);
    }
    text.push_str("\r\n");
}

/// Writes a cell so that no spreadsheet evaluates it as a formula. Numbers are written as they are.
fn push_cell(text: &mut String, cell: &str) {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_formula = !is_number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let escaped = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if escaped.contains(['"', ',', '\n', '\r']) {
        text.push('"');
        text.push_str(&escaped.replace('"', "\"\""));
        text.push('"');
    } else {
        text.push_str(&escaped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        let cell = |cell: &str| {
            let mut text = String::new();
            push_cell(&mut text, cell);
            text
        };
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("-1.50"), "-1.50", "a negative balance stays a number");
        assert_eq!(cell("-cmd|' /C calc'!A0"), "'-cmd|' /C calc'!A0");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("@x\ny"), "\"'@x\ny\"");
    }
}
