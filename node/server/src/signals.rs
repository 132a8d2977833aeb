//! SIGTERM and Ctrl-C, as something to wait for.

/// The signals that stop the node, blocked in every thread started after this was taken.
pub struct Signals(signal_hook::iterator::Signals);

impl Signals {
    pub fn take() -> std::io::Result<Signals> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map(Signals)
    }

    /// Returns when one of them came.
    pub fn wait(mut self) {
        self.0.forever().next();
    }
}
