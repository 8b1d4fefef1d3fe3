//! Double-tagged frames through the loaded program (C-27): judged like others, never answered.

use net_common::verdict::Reason;
use net_tests::{
    frames::{DOUBLE_TAGGED, segment},
    prog_run::{self, PORT, linux_syn},
};

#[test]
fn c_27_a_double_tagged_syn_passes_since_its_ack_could_not_be_completed() {
    prog_run::in_namespace(|lab| {
        for envelope in DOUBLE_TAGGED {
            let syn = envelope.tcp(&linux_syn(4000, 5), &[]);
            let ran = lab.expect(envelope.name, &syn, Reason::SynUnprotected);
            assert_eq!(ran.frame, syn, "{}: untouched", envelope.name);
            let ack = envelope.tcp(&segment(4000, PORT, 6, "A"), &[]);
            lab.expect(envelope.name, &ack, Reason::TcpPass);
            let scan = envelope.tcp(&segment(4000, PORT, 6, "FPU"), &[]);
            lab.expect(envelope.name, &scan, Reason::TcpFlags);
        }
    });
}
