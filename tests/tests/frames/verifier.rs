//! How much work the kernel's verifier has with the programs.

use net_user::datapath::load;

#[test]
fn every_program_is_verified_in_under_200_000_instructions() {
    let ebpf = load::load().expect("the object loads: tests run as root");
    let programs = load::verified(&ebpf).expect("the kernel tells");
    // The optional ones too, which this kernel takes.
    assert_eq!(programs.len(), 6);
    for program in programs {
        let (name, processed, size) = (program.name, program.instructions, program.size);
        println!("{name}: {processed} instructions processed, {size} in the program");
        assert!(
            (1..200_000).contains(&processed),
            "{name}: {processed} instructions processed"
        );
    }
}
