//! Finds the objects stored at OpenAI that a request of the Responses API refers to.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::dialect::external_refs::{ExternalRefs, may_contain_key};
use crate::dialect::json;

/// Ends of keys of which one is present in any item or tool with a reference.
static IDS: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| ["id\"", "_ids\"", "\"container\"", "\"skills\""].map(Finder::new));

/// Adds the references in `input` and `tools`, the values of these fields.
///
/// An id counts only where the provider resolves it. Function calls, messages and tool results have
/// ids as well, but the body contains the whole object.
pub fn collect(body: &[u8], input: Option<&[u8]>, tools: Option<&[u8]>, refs: &mut ExternalRefs) {
    if !may_contain_key(body, &*IDS) {
        return;
    }
    if let Some(input) = input.filter(|input| input.starts_with(b"[")) {
        json::elements(input, |item| scan_item(item, refs));
    }
    if let Some(tools) = tools {
        json::elements(tools, |tool| scan_tool(tool, refs));
    }
}

/// Adds the reference of a field that is an id, or an object with an id.
pub fn collect_field(field: &'static str, value: Option<&[u8]>, refs: &mut ExternalRefs) {
    let Some(value) = value else { return };
    if !value.starts_with(b"{") {
        return refs.add_state_ref_by_id(field, value);
    }
    let mut id: &[u8] = b"null";
    json::each_named(value, &["id"], |value| id = value);
    refs.add_state_ref_by_id(field, id);
}

fn scan_item(item: &[u8], refs: &mut ExternalRefs) {
    let (mut kind, mut id, mut has_content, mut is_whole) = (None, None, false, false);
    // The body is valid JSON, so this fails only for a value that is not an object.
    let _ = json::fields(item, |key, value| {
        let value = &item[value];
        match &*key {
            _ if value == b"null" => {}
            "type" => kind = json::string_of(value),
            "id" => id = Some(value),
            "encrypted_content" | "result" => is_whole = true,
            "container_id" => refs.add_state_ref_by_id("input", value),
            "content" | "output" => {
                has_content = true;
                json::elements(value, |part| scan_file(part, refs));
            }
            _ => has_content = true,
        }
    });
    let is_reference = match kind.as_deref() {
        None => !has_content && !is_whole,
        Some("item_reference") => true,
        // Without their content, only the provider knows it.
        Some("reasoning" | "compaction" | "image_generation_call") => !is_whole,
        Some(_) => false,
    };
    if let Some(id) = id.filter(|_| is_reference) {
        refs.add_state_ref_by_id("input", id);
    }
}

fn scan_file(part: &[u8], refs: &mut ExternalRefs) {
    json::each_named(part, &["file_id"], |id| {
        if id != b"null" {
            refs.add_state_ref("file_id");
        }
    });
}

fn scan_tool(tool: &[u8], refs: &mut ExternalRefs) {
    // The body is valid JSON, so this fails only for a value that is not an object.
    let _ = json::fields(tool, |key, value| match (&*key, &tool[value]) {
        (_, b"null") => {}
        ("vector_store_ids", _) => refs.add_state_ref("tools"),
        ("container" | "environment", environment) => scan_environment(environment, refs),
        ("input_image_mask", mask) => scan_file(mask, refs),
        _ => {}
    });
}

/// Scans the container that a tool runs in, which is new or stored.
fn scan_environment(environment: &[u8], refs: &mut ExternalRefs) {
    if environment.starts_with(b"\"") {
        return refs.add_state_ref_by_id("tools", environment);
    }
    json::each_named(environment, &["container_id"], |id| refs.add_state_ref_by_id("tools", id));
    json::each_named(environment, &["file_ids", "skills"], |objects| {
        let is_list = objects.starts_with(b"[");
        json::elements(objects, |_| {
            if is_list {
                refs.add_state_ref("tools");
            }
        });
    });
}
