//! What a request of the Responses API refers to that OpenAI keeps.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::external_refs::{ExternalRefs, may_contain_key};
use crate::dialect::json;

/// How the keys end without which no item and no tool refers to anything.
static IDS: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| ["id\"", "_ids\"", "\"container\"", "\"skills\""].map(Finder::new));

/// Adds what `input` and `tools`, the body's own fields for those, refer to.
///
/// An id is state only where the provider would look for it: a call of a function, a message or
/// the result of a tool has one, too, and stands there whole.
pub fn collect(
    body: &[u8],
    input: Option<&[u8]>,
    tools: Option<&[u8]>,
    outside: &mut ExternalRefs,
) {
    if !may_contain_key(body, &*IDS) {
        return;
    }
    if let Some(input) = input.filter(|input| input.starts_with(b"[")) {
        json::elements(input, |item| scan_item(item, outside));
    }
    if let Some(tools) = tools {
        json::elements(tools, |tool| scan_tool(tool, outside));
    }
}

/// Adds what a field names that is an id, or an object with one.
pub fn collect_field(field: &'static str, value: Option<&[u8]>, outside: &mut ExternalRefs) {
    let Some(value) = value else { return };
    if !value.starts_with(b"{") {
        return outside.add_state_ref_by_id(field, value);
    }
    let mut id: &[u8] = b"null";
    json::each_named(value, &["id"], |its| id = its);
    outside.add_state_ref_by_id(field, id);
}

fn scan_item(item: &[u8], outside: &mut ExternalRefs) {
    let (mut kind, mut id, mut has_more, mut is_whole) = (None, None, false, false);
    // The body was checked; what is no item has no fields.
    let _ = json::fields(item, |key, value| {
        let value = &item[value];
        match &*key {
            _ if value == b"null" => {}
            "type" => kind = json::string_of(value),
            "id" => id = Some(value),
            "encrypted_content" | "result" => is_whole = true,
            "container_id" => outside.add_state_ref_by_id("input", value),
            "content" | "output" => {
                has_more = true;
                json::elements(value, |part| scan_file(part, outside));
            }
            _ => has_more = true,
        }
    });
    let is_reference = match kind.as_deref() {
        None => !has_more && !is_whole,
        Some("item_reference") => true,
        // Only the provider has what belongs to them.
        Some("reasoning" | "compaction" | "image_generation_call") => !is_whole,
        Some(_) => false,
    };
    if let Some(id) = id.filter(|_| is_reference) {
        outside.add_state_ref_by_id("input", id);
    }
}

fn scan_file(part: &[u8], outside: &mut ExternalRefs) {
    json::each_named(part, &["file_id"], |id| {
        if id != b"null" {
            outside.add_state_ref("file_id");
        }
    });
}

fn scan_tool(tool: &[u8], outside: &mut ExternalRefs) {
    // As above.
    let _ = json::fields(tool, |key, value| match (&*key, &tool[value]) {
        (_, b"null") => {}
        ("vector_store_ids", _) => outside.add_state_ref("tools"),
        ("container" | "environment", place) => scan_environment(place, outside),
        ("input_image_mask", mask) => scan_file(mask, outside),
        _ => {}
    });
}

/// Where a tool runs: a new place, or one that is kept.
fn scan_environment(place: &[u8], outside: &mut ExternalRefs) {
    if place.starts_with(b"\"") {
        return outside.add_state_ref_by_id("tools", place);
    }
    json::each_named(place, &["container_id"], |id| outside.add_state_ref_by_id("tools", id));
    json::each_named(place, &["file_ids", "skills"], |kept| {
        let is_list = kept.starts_with(b"[");
        json::elements(kept, |_| {
            if is_list {
                outside.add_state_ref("tools");
            }
        });
    });
}

/// The id of an answer that is kept: `response` is all of it.
pub fn response_id(response: &[u8]) -> Option<Cow<'_, str>> {
    let (mut id, mut is_kept) = (None, true);
    json::each_named(response, &["id"], |value| id = json::string_of(value));
    json::each_named(response, &["store"], |value| is_kept = value != b"false");
    id.filter(|_| is_kept)
}
