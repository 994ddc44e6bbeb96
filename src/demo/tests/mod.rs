//! Tests of the built-in provider through a socket.

mod harness;
mod pacing;
mod openai;
mod openai_tools;
mod openai_responses;
mod openai_text;
mod anthropic;
mod gemini;
