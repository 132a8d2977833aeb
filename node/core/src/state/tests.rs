//! Behaviour of the state.
