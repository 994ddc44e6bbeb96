//! The built-in provider through a real socket.

mod stand;
mod play;
mod openai;
mod openai_more;
mod anthropic;
mod gemini;
