//! SQL for users, organizations, projects, keys, prices and request logs. Wallets and records are
//! in `ledger`.

pub mod database;
pub mod read_only;
pub mod node_metadata;
pub mod columns;
pub mod row_stream;
pub mod paging;
pub mod price_lists;
pub mod prices;
pub mod quotas;
pub mod usage;
pub mod directory_rows;
pub mod users;
pub mod members;
pub mod sessions;
pub mod setup_links;
pub mod admin_tokens;
pub mod organizations;
pub mod projects;
pub mod api_keys;
pub mod request_logs;
pub mod provider_states;
pub mod call_idempotency;
pub mod admin_idempotency;
pub mod audit;
