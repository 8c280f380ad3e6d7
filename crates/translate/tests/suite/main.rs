//! Translation from the outside: golden files, and objects that no one should write.

mod golden;
mod input;
mod mutations;
mod view;
