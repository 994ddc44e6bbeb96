//! The built-in provider through a real socket.

mod harness;
mod pacing;
mod openai;
mod openai_tools;
mod openai_responses;
mod openai_text;
mod anthropic;
mod gemini;
