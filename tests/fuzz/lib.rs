//! Every parser of burn-qlora on damaged and hostile input; the targets are tests.
