//! ARP and neighbour discovery: fetches what the rules of `net_common::guard` look at, takes shares and tells the
//! agent. Requests that leave are noted at TC egress.
//!
//! The functions with global linkage are checked by the verifier once each, not for every way that leads to them,
//! and what they return is one state to it. They hand the frame on in `NEIGHBOR_SCRATCH`.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::bpf_xdp_load_bytes,
    programs::{TcContext, XdpContext},
};
use net_common::{
    abi::{
        ASKED_NS, AddrWords, Asked, Binding, EVENT_FRAME, InterfaceLimits, Limit, NeighborEvent,
        NeighborKey, NeighborSettings,
    },
    guard::{
        arp,
        ndp::{self, Kind, Message, Options},
        neighbor::{
            self, ALL_CLAIMS, CANDIDATE, Claim, EventKind, Form, OTHERS, STEADY, Standing,
            event_limit,
        },
    },
    parse::{self, Frame, Header, Packet},
    spread::{MacClass, asked_cell, candidate_place, interface_cell, mac_cell, seen_place},
    units::{EtherType, IpProto, Mac, Version},
    verdict::{Reason, Verdict},
};

use crate::{
    limit,
    maps::{
        ASKED, BINDINGS, CANDIDATES, INTERFACE_LIMITS, NEIGHBOR_EVENTS, NEIGHBOR_LIMIT,
        NEIGHBOR_SCRATCH, NeighborScratch, SEEN, Sighting,
    },
    packet::{Context, View, forget, offset, unpack, up_to},
    policy,
    verdict::{HANDED_ON, count, trial, word},
};

/// Flag of a [`Sighting`]: it makes a claim.
const CLAIMS: u32 = 1;
/// It is NDP, or else ARP.
const NDP: u32 = 1 << 1;
/// It is a router advertisement.
const ADVERTISES_ROUTER: u32 = 1 << 2;
/// It answers, or asks for an address of ours. The others are everybody's business, such as those of a router that
/// is scanned through.
const FOR_US: u32 = 1 << 3;
/// Its Ethernet source must agree with the binding too.
const SENDER_TOO: u32 = 1 << 4;
/// Its link-layer address is its Ethernet source, for want of an option.
const IMPLICIT: u32 = 1 << 5;

/// Pointer to a field of a map's value or a reserved event.
macro_rules! at {
    ($value:expr, $ty:ty, $field:ident) => {
        $value
            .wrapping_byte_add(core::mem::offset_of!($ty, $field))
            .cast()
    };
}

/// Writes a field of a reserved event.
macro_rules! put {
    ($event:expr, $field:ident: $ty:ty = $value:expr) => {
        let at: *mut $ty = at!($event, NeighborEvent, $field);
        // SAFETY: the event is reserved, of its type's size and alignment, and nobody else's until submitted.
        unsafe { at.write($value) };
    };
}

/// The verdict of a rule for which there is no exception.
#[inline(always)]
fn ruled(settings: &NeighborSettings, enforce: u32, reason: Reason) -> Verdict {
    Verdict {
        reason,
        observed: settings.flags & enforce == 0 && Reason::drops(reason as u32),
    }
}

/// The verdict of a frame that the parser could not look into, for a reason that may be one of these guards': it is
/// theirs only while they are on.
#[inline(always)]
pub fn hidden(reason: Reason) -> Verdict {
    use NeighborSettings as S;
    let (on, enforce) = match reason {
        Reason::StackedPriorityTags => (S::ARP | S::NDP, S::ARP_ENFORCE | S::NDP_ENFORCE),
        Reason::NdHidden => (S::NDP, S::NDP_ENFORCE),
        _ => return reason.into(),
    };
    match policy::neighbors() {
        Some(settings) if settings.flags & on != 0 => ruled(settings, enforce, reason),
        _ => Reason::ParserLimit.into(),
    }
}

/// The guard of ARP, for the packet at offset `l3`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn arp_guard(ctx: *mut xdp_md, l3: u32, vlan: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    judge_arp(&ctx, offset(l3), vlan as u16).map_or(HANDED_ON, word)
}

/// The guard of NDP, for an IPv6 packet that is not TCP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ndp_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32, vlan: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let packet = unpack(place, l4, l4_len, 0);
    judge_ipv6(&ctx, &packet, vlan as u16).map_or(HANDED_ON, word)
}

/// None when the frame is sane and was handed on.
#[inline(always)]
fn judge_arp(ctx: &XdpContext, l3: usize, vlan: u16) -> Option<Verdict> {
    let settings = policy::neighbors()?;
    if settings.flags & NeighborSettings::ARP == 0 {
        return Some(Reason::NoRule.into());
    }
    let enforce = NeighborSettings::ARP_ENFORCE;
    let Some(arp) = arp::read(&View(ctx), l3) else {
        return Some(ruled(settings, enforce, Reason::ArpMalformed));
    };
    let claim = arp.claim();
    let key = key(ctx, vlan, Version::V4, [arp.sender, 0, 0, 0]);
    let named = arp.sender_mac.is_group() && names(&key, arp.sender_mac);
    if let Some(reason) = arp.sanity(settings.flags, named) {
        return Some(ruled(settings, enforce, reason));
    }
    if arp.source != arp.sender_mac {
        count(Reason::ArpSourceMac);
    }
    let target = NeighborKey {
        addr: [arp.target, 0, 0, 0],
        ..key
    };
    let flags = if arp.reply || is_own(&target) {
        FOR_US
    } else {
        0
    };
    hand_on(key, claim, arp.source, flags)
}

/// None when the message is sane and was handed on.
#[inline(always)]
fn judge_ipv6(ctx: &XdpContext, packet: &Packet, vlan: u16) -> Option<Verdict> {
    let settings = policy::neighbors()?;
    if settings.flags & NeighborSettings::NDP == 0 {
        return Some(Reason::NoRule.into());
    }
    match message(ctx, settings, packet) {
        Ok((message, options)) => discovery(ctx, vlan, &message, &options),
        Err(reason) => Some(ruled(settings, NeighborSettings::NDP_ENFORCE, reason)),
    }
}

#[inline(always)]
fn key(ctx: &XdpContext, vlan: u16, version: Version, addr: AddrWords) -> NeighborKey {
    NeighborKey {
        addr,
        ifindex: ctx.ifindex(),
        vlan,
        family: version.number(),
    }
}

/// Whether a binding of an address names this link-layer address.
#[inline(always)]
fn names(key: &NeighborKey, mac: Mac) -> bool {
    // SAFETY: a value that the agent replaces meanwhile stays readable; its memory may be another binding's then, for
    // this one frame.
    unsafe { BINDINGS.get(key) }.is_some_and(|binding| neighbor::holds(binding, mac))
}

#[inline(always)]
fn is_own(key: &NeighborKey) -> bool {
    // SAFETY: as above.
    unsafe { BINDINGS.get(key) }.is_some_and(|binding| binding.flags & Binding::OWN != 0)
}

/// Leaves the frame in the scratch space, for [`claim_guard`].
#[inline(always)]
fn hand_on(key: NeighborKey, claim: Option<Claim>, source: Mac, mut flags: u32) -> Option<Verdict> {
    let Some(scratch) = NEIGHBOR_SCRATCH.get_ptr_mut(0) else {
        return Some(Reason::Internal.into());
    };
    let (mut mac, mut form) = (0, Form::Request);
    if let Some(claim) = claim {
        (mac, form) = (claim.mac.0, claim.form);
        flags |= CLAIMS;
        if claim.sender != Mac::NONE {
            flags |= SENDER_TOO;
        }
        if !claim.explicit {
            flags |= IMPLICIT;
        }
    }
    let sighting: *mut Sighting = at!(scratch, NeighborScratch, sighting);
    let value = Sighting {
        key,
        mac,
        source: source.0,
        form: form as u32,
        flags,
    };
    // SAFETY: a live map value, this CPU's own.
    unsafe { sighting.write_volatile(value) };
    None
}

/// Reads a message of neighbour discovery, and holds it to the rules that need nothing else.
#[inline(always)]
fn message(
    ctx: &XdpContext,
    settings: &NeighborSettings,
    packet: &Packet,
) -> Result<(Message, Options), Reason> {
    let guarded = settings.flags & NeighborSettings::RA_GUARD != 0;
    let message = ndp::read(&View(ctx), packet, guarded)?;
    if let Some(reason) = message.sanity() {
        return Err(reason);
    }
    let options = options(ctx, packet, message.kind.body_len()).ok_or(Reason::NdMalformed)?;
    match message.option_sanity(&options) {
        Some(reason) => Err(reason),
        None => Ok((message, options)),
    }
}

/// Copies the message out of the packet, which may lie in fragments, and reads its options.
#[inline(always)]
fn options(ctx: &XdpContext, packet: &Packet, at: usize) -> Option<Options> {
    let scratch = NEIGHBOR_SCRATCH.get_ptr_mut(0)?;
    let space: *mut u8 = at!(scratch, NeighborScratch, space);
    let copied = up_to::<{ ndp::SPACE as u32 }>(packet.l4_len);
    if copied == 0 {
        return None;
    }
    // SAFETY: `space` has SPACE octets, and `copied` is no more.
    let failed = unsafe { bpf_xdp_load_bytes(ctx.ctx, packet.l4 as u32, space.cast(), copied) };
    if failed != 0 {
        return None;
    }
    parse_ndp_options(at as u32, packet.l4_len as u32);
    let out: *mut Options = at!(scratch, NeighborScratch, options);
    // SAFETY: a live map value; volatile for the verifier, see `Scratch`.
    Some(unsafe { out.read_volatile() })
}

/// Reads the options in the scratch space.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_ndp_options(at: u32, len: u32) -> i32 {
    let Some(scratch) = NEIGHBOR_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own value; nothing else refers to it meanwhile.
    let scratch = unsafe { &mut *scratch };
    ndp::parse_options(
        &scratch.space,
        at as usize,
        len as usize,
        &mut scratch.options,
    );
    0
}

#[inline(always)]
fn discovery(ctx: &XdpContext, vlan: u16, message: &Message, options: &Options) -> Option<Verdict> {
    let flags = NDP
        | match message.kind {
            Kind::RouterAdvertisement => ADVERTISES_ROUTER | FOR_US,
            Kind::NeighborAdvertisement | Kind::Redirect => FOR_US,
            Kind::NeighborSolicitation if is_own(&key(ctx, vlan, Version::V6, message.target)) => {
                FOR_US
            }
            Kind::NeighborSolicitation | Kind::RouterSolicitation => 0,
        };
    // A redirect makes two claims: the one about the better first hop comes first, if it is to be dropped for it.
    let redirect = message.redirect_claim(options).filter(|claim| {
        let key = key(ctx, vlan, Version::V6, claim.addr);
        // SAFETY: as in `names`.
        let binding = unsafe { BINDINGS.get(key) };
        neighbor::standing(claim, binding, false) == Standing::Mismatch
    });
    let claim = redirect.or_else(|| message.claim(options));
    let addr = claim.map_or([0; 4], |claim| claim.addr);
    hand_on(
        key(ctx, vlan, Version::V6, addr),
        claim,
        message.source,
        flags,
    )
}

/// What is in force where the frame arrived.
struct Site {
    settings: &'static NeighborSettings,
    seed: u64,
    now: u64,
    sighting: &'static Sighting,
}

impl Site {
    #[inline(always)]
    fn new() -> Option<Self> {
        let scratch = NEIGHBOR_SCRATCH.get_ptr_mut(0)?;
        let sighting: *const Sighting = at!(scratch, NeighborScratch, sighting);
        Some(Self {
            settings: policy::neighbors()?,
            seed: policy::settings()?.hash_seed,
            now: limit::now(),
            // SAFETY: a live map value, this CPU's own; nobody writes to it meanwhile.
            sighting: unsafe { &*sighting },
        })
    }

    #[inline(always)]
    fn is(&self, flag: u32) -> bool {
        self.sighting.flags & flag != 0
    }

    #[inline(always)]
    fn source(&self) -> Mac {
        Mac(self.sighting.source)
    }

    #[inline(always)]
    fn claim(&self) -> Claim {
        let s = self.sighting;
        Claim {
            version: if self.is(NDP) {
                Version::V6
            } else {
                Version::V4
            },
            addr: s.key.addr,
            mac: Mac(s.mac),
            sender: if self.is(SENDER_TOO) {
                self.source()
            } else {
                Mac::NONE
            },
            explicit: !self.is(IMPLICIT),
            form: Form::from_number(s.form),
        }
    }

    #[inline(always)]
    fn enforce(&self) -> bool {
        let flag = if self.is(NDP) {
            NeighborSettings::NDP_ENFORCE
        } else {
            NeighborSettings::ARP_ENFORCE
        };
        self.settings.flags & flag != 0
    }

    #[inline(always)]
    fn limit_reason(&self) -> Reason {
        if self.is(NDP) {
            Reason::NdLimit
        } else {
            Reason::ArpLimit
        }
    }

    #[inline(always)]
    fn take(&self, cell: *mut u64, rate: &Limit) -> bool {
        limit::take(cell, self.now, rate.interval_ns, rate.tolerance_ns)
    }

    #[inline(always)]
    fn cells(&self) -> Option<*mut InterfaceLimits> {
        INTERFACE_LIMITS.get_ptr_mut(interface_cell(self.sighting.key.ifindex))
    }

    /// Whether the agent was there lately.
    #[inline(always)]
    fn agent_alive(&self) -> bool {
        policy::is_alive(policy::heartbeat(), self.now)
    }

    /// Whether this host asked for the address in the last 3 s, and whether it wanted it for itself.
    #[inline(always)]
    fn asked(&self) -> (bool, bool) {
        let Some(cell) = ASKED.get(asked_cell(&self.sighting.key.addr, self.seed)) else {
            // As if: passes more, never less.
            return (true, false);
        };
        let lately = |at: u64| at != 0 && self.now < at.saturating_add(ASKED_NS);
        (lately(cell.asked_ns), lately(cell.probed_ns))
    }
}

/// Holds what was handed on to its binding, takes its share and tells the agent.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_guard(ctx: *mut xdp_md) -> u32 {
    word(judge_claim(ctx).unwrap_or(Reason::Internal.into()))
}

#[inline(always)]
fn judge_claim(ctx: *mut xdp_md) -> Option<Verdict> {
    let site = Site::new()?;
    let pass = if site.is(NDP) {
        Reason::NdPass
    } else {
        Reason::ArpPass
    };
    if !site.is(CLAIMS) {
        let reason = Reason::from_number(take_shares(UNKNOWN)).unwrap_or(pass);
        let observed = Reason::drops(reason as u32) && !site.enforce();
        return Some(Verdict { reason, observed });
    }
    let claim = site.claim();
    let (asked, probed) = site.asked();
    let (asked, probed) = (forget_bool(asked), forget_bool(probed));
    let binding = BINDINGS.get_ptr_mut(site.sighting.key);
    // SAFETY: a live map value; the data path changes the times alone, which are not read here.
    let bound = binding.map(|b| unsafe { &*b });
    let standing = neighbor::standing(&claim, bound, asked);
    let standing = Standing::from_number(forget::<XdpContext>(standing as u32));
    if standing == Standing::OwnForeign {
        count(Reason::OwnAddressClaimed);
    }
    let (flags, has) = bound.map_or((0, false), |b| (b.flags, true));
    let (flags, has) = (forget::<XdpContext>(flags), forget_bool(has));
    let rogue = site.is(ADVERTISES_ROUTER)
        && site.settings.flags & NeighborSettings::RA_GUARD != 0
        && flags & Binding::ROUTER == 0;
    let (place, print) = seen_place(&site.sighting.key, claim.mac, site.seed);
    let seen = SEEN.get_ptr_mut(place)?;
    // SAFETY: a live map value; the volatile read keeps it apart from the write below.
    let known = unsafe { seen.read_volatile() } == print;

    let mut enforced = site.enforce();
    let reason = if let Some(reason) = standing.drop_reason() {
        enforced = neighbor::enforced(flags, enforced, site.agent_alive());
        reason
    } else if rogue {
        Reason::RaGuard
    } else {
        let answers = asked && matches!(claim.form, Form::Reply);
        let (expected, fine) = if standing == Standing::Valid {
            (OWN_SHARE, Reason::NeighborValid)
        } else if answers {
            (ASKED_FOR, pass)
        } else if known {
            (KNOWN, pass)
        } else {
            (UNKNOWN, pass)
        };
        if standing == Standing::Valid && answers {
            // The answer that we wait for. Who forges it says what is true.
            fine
        } else {
            Reason::from_number(take_shares(expected)).unwrap_or(fine)
        }
    };
    let reason = Reason::from_number(forget::<XdpContext>(reason as u32))?;
    let enforced = forget_bool(enforced);
    let drop = Reason::drops(reason as u32);

    let kind = if rogue && standing != Standing::Mismatch {
        Some(EventKind::RogueRouter)
    } else {
        neighbor::event(standing, &claim, has, asked, probed, known)
    };
    if let Some(kind) = kind
        && !(drop && enforced && kind == EventKind::Station)
    {
        let mut flags = neighbor::event_flags(claim.form, asked);
        if drop && enforced {
            flags |= NeighborEvent::DROPPED;
        }
        let told = tell(ctx, kind as u32, reason as u32, flags) != 0;
        if told && !(drop && enforced) {
            // SAFETY: a live map value.
            unsafe { seen.write_volatile(print) };
        }
    }
    Some(Verdict {
        reason,
        observed: drop && !enforced,
    })
}

#[inline(always)]
fn forget_bool(value: bool) -> bool {
    forget::<XdpContext>(value.into()) != 0
}

/// What a frame may expect of [`take_shares`]: nobody of this interface was seen in its place before.
const UNKNOWN: u32 = 0;
/// Its claim was seen before.
const KNOWN: u32 = 1;
/// It answers a request of ours.
const ASKED_FOR: u32 = 2;
/// It agrees with a protected binding.
const OWN_SHARE: u32 = 3;

/// Takes a frame from its shares. The number of the reason when one is used up, else one that is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_shares(expected: u32) -> u32 {
    match shares(expected) {
        Some(reason) => reason as u32,
        None => u32::MAX,
    }
}

#[inline(always)]
fn shares(expected: u32) -> Option<Reason> {
    let site = Site::new()?;
    let cells = site.cells()?;
    let s = site.settings;
    let request = !matches!(site.claim().form, Form::Announcement | Form::Reply);
    let for_others = !site.is(FOR_US) && request;
    // Beside all others: who forges it from its own Ethernet address does not spend it.
    if expected == OWN_SHARE && !for_others && take_own_share() != 0 {
        return None;
    }
    let announces = !site.is(NDP) && matches!(site.claim().form, Form::Announcement);
    if announces && !take_of(&site, MacClass::Announcement, site.source(), &s.announce) {
        return Some(Reason::ArpAnnounceLimit);
    }
    if !site.is(FOR_US) {
        let within = take_of(&site, MacClass::Others, site.source(), &OTHERS)
            && (expected == OWN_SHARE
                || site.take(at!(cells, InterfaceLimits, others_tat_ns), &s.known));
        return (!within).then_some(site.limit_reason());
    }
    if expected == ASKED_FOR {
        // Not for each source: one may answer for a whole network (proxy ARP).
        let within = site.take(at!(cells, InterfaceLimits, asked_tat_ns), &s.known);
        return (!within).then_some(site.limit_reason());
    }
    let class = if site.is(NDP) {
        MacClass::Ndp
    } else {
        MacClass::Arp
    };
    if !take_of(&site, class, site.source(), &s.mac) {
        return Some(site.limit_reason());
    }
    if site.is(ADVERTISES_ROUTER)
        && !site.take(at!(cells, InterfaceLimits, router_tat_ns), &s.router)
    {
        return Some(Reason::RaLimit);
    }
    let within = if expected == UNKNOWN {
        site.take(at!(cells, InterfaceLimits, unknown_tat_ns), &s.unknown)
    } else {
        site.take(at!(cells, InterfaceLimits, known_tat_ns), &s.known)
    };
    (!within).then_some(site.limit_reason())
}

/// Takes from the share of a link-layer address.
#[inline(always)]
fn take_of(site: &Site, class: MacClass, mac: Mac, rate: &Limit) -> bool {
    let cell = mac_cell(class, mac, site.sighting.key.ifindex, site.seed);
    NEIGHBOR_LIMIT
        .get_ptr_mut(cell)
        .is_none_or(|cell| site.take(cell, rate))
}

/// Takes from the share that is reserved for a protected neighbour, for a frame that one of its own addresses sent.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_own_share() -> u32 {
    let Some(site) = Site::new() else {
        return 0;
    };
    let Some(binding) = BINDINGS.get_ptr_mut(site.sighting.key) else {
        return 0;
    };
    // SAFETY: a live map value; the agent may replace it meanwhile, then either set serves.
    if !neighbor::holds(unsafe { &*binding }, site.source()) {
        return 0;
    }
    let cell = at!(binding, Binding, share_tat_ns);
    site.take(cell, &site.settings.share).into()
}

/// Sends an event of the frame in the scratch space; 0 when its kind has had its share, or there was no room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell(ctx: *mut xdp_md, kind: u32, reason: u32, flags: u32) -> u32 {
    let Some(site) = Site::new() else {
        return 0;
    };
    // Nobody sent it: nothing to ask a neighbour about.
    if trial(&XdpContext::new(ctx)).is_some() {
        return 0;
    }
    let Some(kind) = EventKind::from_number(kind) else {
        return 0;
    };
    let flags = match share_of_events(&site, kind, flags) {
        Some(flags) => flags,
        None => return 0,
    };
    let Some(mut entry) = NEIGHBOR_EVENTS.reserve::<NeighborEvent>(0) else {
        count(Reason::NeighborEventLost);
        return 0;
    };
    let event = entry.as_mut_ptr();
    put!(event, time_ns: u64 = site.now);
    // An advertisement without its option does not say where it is from: nobody is to take over by that.
    let unsaid = kind == EventKind::Claim && flags & NeighborEvent::REPLY != 0 && site.is(IMPLICIT);
    put!(event, mac: u64 = if unsaid { 0 } else { site.sighting.mac });
    put!(event, source: u64 = site.sighting.source);
    // SAFETY: a live map value; volatile, or the copy would be a call of memmove.
    let key = unsafe { (&raw const site.sighting.key).read_volatile() };
    put!(event, key: NeighborKey = key);
    put!(event, kind: u32 = kind as u32);
    put!(event, flags: u32 = flags);
    put!(event, reason: u32 = reason);
    put!(event, len: u32 = 0);
    let frame: *mut u8 = at!(event, NeighborEvent, frame);
    let len = up_to::<{ EVENT_FRAME as u32 }>(XdpContext::new(ctx).total_len());
    // SAFETY: `frame` has EVENT_FRAME octets, and `len` is no more.
    if len > 0 && unsafe { bpf_xdp_load_bytes(ctx, 0, frame.cast(), len) } == 0 {
        put!(event, len: u32 = len);
    }
    entry.submit(0);
    1
}

/// Takes from the share of events; the event's flags, or None when it is used up.
#[inline(always)]
fn share_of_events(site: &Site, kind: EventKind, flags: u32) -> Option<u32> {
    let rate = event_limit(kind);
    let cells = site.cells()?;
    let (cell, rate, flags) = match kind {
        EventKind::Claim => {
            let binding = BINDINGS.get_ptr_mut(site.sighting.key)?;
            if flags & NeighborEvent::SOLICITED == 0 {
                let all = at!(cells, InterfaceLimits, claims_tat_ns);
                let within = site.take(at!(binding, Binding, claim_tat_ns), &rate)
                    && site.take(all, &ALL_CLAIMS);
                return within.then_some(flags);
            }
            if !take_of(
                site,
                MacClass::Candidate,
                Mac(site.sighting.mac),
                &CANDIDATE,
            ) {
                return None;
            }
            if is_steady(site)? {
                let cell = at!(binding, Binding, steady_tat_ns);
                (cell, STEADY, flags | NeighborEvent::STEADY)
            } else {
                (at!(binding, Binding, candidate_tat_ns), rate, flags)
            }
        }
        EventKind::Answer => {
            let binding = BINDINGS.get_ptr_mut(site.sighting.key)?;
            (at!(binding, Binding, answer_tat_ns), rate, flags)
        }
        EventKind::OwnClaim => (at!(cells, InterfaceLimits, own_tat_ns), rate, flags),
        EventKind::ProbeAnswered => (at!(cells, InterfaceLimits, probe_tat_ns), rate, flags),
        EventKind::RogueRouter => (at!(cells, InterfaceLimits, rogue_tat_ns), rate, flags),
        EventKind::Station => (at!(cells, InterfaceLimits, station_tat_ns), rate, flags),
    };
    site.take(cell, &rate).then_some(flags)
}

/// Whether the link-layer address of an answer gave one before; and remembers this one.
#[inline(always)]
fn is_steady(site: &Site) -> Option<bool> {
    let (place, print) = candidate_place(&site.sighting.key, Mac(site.sighting.mac), site.seed);
    let cell = CANDIDATES.get_ptr_mut(place)?;
    // SAFETY: a live map value.
    let (steady, value) = neighbor::steady(unsafe { cell.read_volatile() }, print, site.now);
    // SAFETY: as above.
    unsafe { cell.write_volatile(value) };
    Some(steady)
}

/// Notes what a packet that leaves asks for.
#[inline(always)]
pub fn on_egress(ctx: &TcContext) {
    let _: Option<()> = note_request(ctx);
}

#[inline(always)]
fn note_request(ctx: &TcContext) -> Option<()> {
    // SAFETY: the context is the program's own.
    let protocol = unsafe { (*ctx.skb.skb).protocol } as u16;
    if protocol == EtherType::IPV4.0.to_be() {
        return None;
    }
    let settings = policy::neighbors()?;
    if settings.flags & (NeighborSettings::ARP | NeighborSettings::NDP) == 0 {
        return None;
    }
    let frame = View(ctx);
    let payload = parse::payload(&frame).ok()?;
    let l3 = payload.l3;
    match payload.ether_type {
        EtherType::ARP => {
            let arp = arp::read(&frame, l3)?;
            if !arp.reply && !arp.is_announcement() {
                note(&[arp.target, 0, 0, 0], arp.is_probe());
            }
        }
        EtherType::IPV6 => {
            let ip = frame.header::<40>(l3)?;
            if ip.octet::<6>() != IpProto::ICMPV6.0 {
                return None;
            }
            let body = frame.header::<24>(l3 + 40)?;
            if body.octet::<0>() == 135 {
                let target = [
                    body.word::<8>(),
                    body.word::<12>(),
                    body.word::<16>(),
                    body.word::<20>(),
                ];
                let unspecified =
                    ip.word::<8>() | ip.word::<12>() | ip.word::<16>() | ip.word::<20>() == 0;
                note(&target, unspecified);
            }
        }
        _ => {}
    }
    Some(())
}

#[inline(always)]
fn note(addr: &AddrWords, probe: bool) {
    let Some(settings) = policy::settings() else {
        return;
    };
    let Some(cell) = ASKED.get_ptr_mut(asked_cell(addr, settings.hash_seed)) else {
        return;
    };
    let now = limit::now();
    let asked_ns: *mut u64 = at!(cell, Asked, asked_ns);
    // SAFETY: a live map value.
    unsafe { asked_ns.write_volatile(now) };
    if probe {
        let probed_ns: *mut u64 = at!(cell, Asked, probed_ns);
        // SAFETY: a live map value.
        unsafe { probed_ns.write_volatile(now) };
    }
}
