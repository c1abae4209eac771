-- TCP-ENO (RFC 8547) and tcpcrypt (RFC 8548) for Wireshark and tshark, 4.0.
--
--   tshark -X lua_script:tcpcrypt.lua -r capture.pcap -V
--
-- or in the directory of personal plugins (Help, About Wireshark, Folders).
--
-- What there is: the suboptions of option 69 and of its experimental form, Init1 and
-- Init2, frames, put together over segments by Wireshark's own reassembly; and the same
-- within the streams of secure sockets (docs/sockets.md), on ports that nobody else has.
--
-- Lua in Wireshark has no AEAD and no HKDF, and ciphers are not written here.  Frames
-- are opened by `tcpcrypt decode CAPTURE --keylog FILE --opened FILE`; the preference
-- `tcpcrypt.opened` names that file, and a frame is shown opened where each of its
-- bytes is one of those that were verified.

set_plugin_info({
    version = "1.0.0",
    description = "TCP-ENO (RFC 8547) and tcpcrypt (RFC 8548)",
})

local ENO_KIND, EXPERIMENT_KIND, ENO_EXID = 69, 253, "\x45\x4e"
local INIT1, INIT2 = "\x15\x10\x1a\x0e", "\x09\x71\x05\xe0"
local INIT_MAX = 1048576
local TCP = 6
local NONCE_LEN, FRAME_HEADER_LEN, FRAME_MIN, TAG_LEN = 32, 3, 17, 16
local RESUME_ID_LEN = 9
local PREFACE, PREFACE_LEN = "TCENO\x01\x45", 6 -- and an option, of which it has the kind
local EXPERIMENTAL_TEP, AUTHENTICATED = 0x20, "\x54\x41"
local OPENED_MAX = 4000000 -- frames of a file that are looked for

local TEPS = {
    [0x20] = "experimental",
    [0x21] = "TCPCRYPT_ECDHE_P256",
    [0x22] = "TCPCRYPT_ECDHE_P521",
    [0x23] = "TCPCRYPT_ECDHE_Curve25519",
    [0x24] = "TCPCRYPT_ECDHE_Curve448",
    [0x30] = "TLS (RFC 8547, section 7)",
}
local AEADS = {
    [0x0001] = "AEAD_AES_128_GCM",
    [0x0002] = "AEAD_AES_256_GCM",
    [0x0010] = "AEAD_CHACHA20_POLY1305",
}

-- What differs between the two dialects (docs/interop.md).  Lengths of public keys by
-- TEP, with the byte or two before a point of a NIST curve.
local RFC8548 = {
    name = "RFC 8548",
    cipher_len = 2,
    by_name = true,
    keys = { [0x21] = 35, [0x22] = 69, [0x23] = 32, [0x24] = 56 },
}
local STANFORD = {
    name = "Stanford tcpcryptd",
    cipher_len = 1,
    by_name = false,
    keys = { [0x21] = 67, [0x22] = 135 },
}

local eno = Proto("tcpeno", "TCP Encryption Negotiation Option")
local tcpcrypt = Proto("tcpcrypt", "tcpcrypt")

local e = {
    kind = ProtoField.uint8("tcpeno.kind", "Kind"),
    length = ProtoField.uint8("tcpeno.length", "Length"),
    exid = ProtoField.uint16("tcpeno.exid", "ExID", base.HEX),
    global = ProtoField.uint8("tcpeno.global", "Global suboption", base.HEX),
    a = ProtoField.bool("tcpeno.global.a", "a: application-aware", 8, nil, 0x02),
    b = ProtoField.bool("tcpeno.global.b", "b: plays role B", 8, nil, 0x01),
    size = ProtoField.uint8("tcpeno.suboption.length", "Length byte", base.DEC),
    tep = ProtoField.uint8("tcpeno.suboption.tep", "TEP identifier", base.HEX, TEPS, 0x7f),
    v = ProtoField.bool("tcpeno.suboption.v", "v: with data", 8, nil, 0x80),
    data = ProtoField.bytes("tcpeno.suboption.data", "Data"),
    version = ProtoField.uint8("tcpeno.suboption.version", "Version of the authenticated TEP"),
    resume = ProtoField.bytes("tcpeno.suboption.resume", "Identifier of the session to resume"),
    nonce = ProtoField.bytes("tcpeno.suboption.nonce", "Nonce"),
    ack = ProtoField.none("tcpeno.ack", "Non-SYN form"),
}
eno.fields = e

local f = {
    preface = ProtoField.string("tcpcrypt.preface", "Preface"),
    init = ProtoField.string("tcpcrypt.init", "Message"),
    magic = ProtoField.uint32("tcpcrypt.init.magic", "Magic number", base.HEX),
    message_len = ProtoField.uint32("tcpcrypt.init.message_len", "message_len"),
    nciphers = ProtoField.uint8("tcpcrypt.init.nciphers", "nciphers"),
    cipher = ProtoField.uint16("tcpcrypt.init.sym_cipher", "sym_cipher", base.HEX, AEADS),
    nonce = ProtoField.bytes("tcpcrypt.init.nonce", "Nonce"),
    public = ProtoField.bytes("tcpcrypt.init.public", "Public key"),
    tail = ProtoField.bytes("tcpcrypt.init.tail", "What follows"),
    static_flag = ProtoField.bool("tcpcrypt.init.static", "Shows a static key", 8, nil, 0x01),
    psk_flag = ProtoField.bool("tcpcrypt.init.psk", "Names or uses a pre-shared key", 8, nil, 0x02),
    static_key = ProtoField.bytes("tcpcrypt.init.static_key", "Static key of A"),
    hint = ProtoField.bytes("tcpcrypt.init.hint", "Hint of the pre-shared key"),
    sealed = ProtoField.bytes("tcpcrypt.init.sealed", "Static key of B, sealed"),
    proof = ProtoField.bytes("tcpcrypt.init.proof", "Proof of B"),
    frame = ProtoField.string("tcpcrypt.frame", "Frame"),
    control = ProtoField.uint8("tcpcrypt.frame.control", "Control", base.HEX),
    rekey = ProtoField.bool("tcpcrypt.frame.rekey", "rekey", 8, nil, 0x01),
    clen = ProtoField.uint16("tcpcrypt.frame.clen", "clen"),
    ciphertext = ProtoField.bytes("tcpcrypt.frame.ciphertext", "Ciphertext and tag"),
    flags = ProtoField.uint8("tcpcrypt.frame.flags", "Flags", base.HEX),
    finp = ProtoField.bool("tcpcrypt.frame.finp", "FINp", 8, nil, 0x01),
    urgp = ProtoField.bool("tcpcrypt.frame.urgp", "URGp", 8, nil, 0x02),
    urgent = ProtoField.uint16("tcpcrypt.frame.urgent", "Urgent"),
    data = ProtoField.bytes("tcpcrypt.frame.data", "Data"),
    tep = ProtoField.uint8("tcpcrypt.tep", "TEP", base.HEX, TEPS),
    resumed = ProtoField.bool("tcpcrypt.resumed", "Resumes a session"),
}
tcpcrypt.fields = f

local malformed = ProtoExpert.new(
    "tcpcrypt.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local ill_formed = ProtoExpert.new(
    "tcpeno.ill_formed", "Ill-formed option (RFC 8547, section 4.4)",
    expert.group.MALFORMED, expert.severity.WARN)
local out_of_step = ProtoExpert.new(
    "tcpcrypt.out_of_step", "No frame begins here: something before it was not captured",
    expert.group.SEQUENCE, expert.severity.WARN)
local unreadable = ProtoExpert.new(
    "tcpeno.unreadable", "Malformed, or cut when it was captured: TCP, or what it carries",
    expert.group.MALFORMED, expert.severity.ERROR)
tcpcrypt.experts = { malformed, out_of_step }
eno.experts = { ill_formed, unreadable }

tcpcrypt.prefs.opened = Pref.string(
    "Opened frames", "", "File that `tcpcrypt decode --opened` wrote; read anew with the capture")

-- Connections with the option, by who sends to whom, and by the number of each of
-- their packets.  All is found out at the first pass: later ones come in any order.
local by_flow, by_packet = {}, {}

local function flow_of(pinfo, source_port, destination_port)
    local source = tostring(pinfo.src) .. " " .. source_port
    local destination = tostring(pinfo.dst) .. " " .. destination_port
    return source .. " " .. destination, destination .. " " .. source
end

-- RFC 8547, section 4: suboptions ---------------------------------------------------

-- A list of { tep, v, at, data_at, data_len, size_at } and the place of the global
-- suboption; nil where the option is ill-formed.
local function suboptions(octets)
    local found, global_at, at = {}, nil, 1
    while at <= #octets do
        local byte = octets:byte(at)
        if byte < 0x20 then
            global_at = global_at or at
            at = at + 1
        elseif byte < 0x80 then
            found[#found + 1] = { tep = byte, v = false, at = at, data_at = at + 1, data_len = 0 }
            at = at + 1
        elseif byte < 0xa0 then
            local size = byte - 0x80 + 1
            local tep = octets:byte(at + 1)
            if tep == nil or tep < 0xa0 or at + 1 + size > #octets then return nil end
            found[#found + 1] = {
                tep = tep - 0x80, v = true, size_at = at, at = at + 1,
                data_at = at + 2, data_len = size,
            }
            at = at + 2 + size
        else
            found[#found + 1] = {
                tep = byte - 0x80, v = true, at = at,
                data_at = at + 1, data_len = #octets - at,
            }
            at = #octets + 1
        end
    end
    return found, global_at
end

-- Where the identifier and the nonce of a resumption stand in the data; nil: none.
local function resumption(dialect, tep, data)
    local skip = 0
    if tep == EXPERIMENTAL_TEP then
        if data:sub(1, 2) ~= AUTHENTICATED then return nil end
        skip = 3
    end
    if #data < skip + RESUME_ID_LEN then return nil end
    return skip, #data - skip - RESUME_ID_LEN
end

local function offer_of(octets)
    local found, global_at = suboptions(octets)
    if found == nil then return nil end
    local offer = { by_tep = {}, order = {}, b = false }
    offer.b = global_at ~= nil and octets:byte(global_at) % 2 == 1
    for _, s in ipairs(found) do
        local data = octets:sub(s.data_at, s.data_at + s.data_len - 1)
        if offer.by_tep[s.tep] == nil or s.v then
            offer.by_tep[s.tep] = { v = s.v, data = data }
        end
        offer.order[#offer.order + 1] = s.tep
    end
    return offer
end

-- What the two options come to: TEP, roles, whether a session is resumed.
local function agree(c)
    local one, other = c.offer_of_client, c.offer_of_server
    c.tep = nil
    if one == nil or other == nil then return end
    c.client_is_a = not one.b or c.dialect == STANFORD
    local a, b = one, other
    if not c.client_is_a then a, b = other, one end
    if c.dialect == RFC8548 and one.b == other.b then return end
    for i = #b.order, 1, -1 do
        if a.by_tep[b.order[i]] ~= nil then
            c.tep = b.order[i]
            break
        end
    end
    if c.tep == nil then return end
    local asked, answered = one.by_tep[c.tep], other.by_tep[c.tep]
    local named = asked.v and resumption(c.dialect, c.tep, asked.data)
    if c.dialect.by_name then
        c.resumed = named and answered.v
            and resumption(c.dialect, c.tep, answered.data) ~= nil or false
    else
        c.resumed = named and answered.v or false
    end
    if c.tep == EXPERIMENTAL_TEP and b.by_tep[c.tep].data:sub(1, 2) == AUTHENTICATED then
        c.version = b.by_tep[c.tep].data:byte(3)
    end
end

-- The first ENO option of a TCP header: its dialect, its contents, and where it stands.
local function find_eno(octets)
    local at = 1
    while at < #octets do
        local kind, length = octets:byte(at), octets:byte(at + 1)
        if kind == 0 then return nil end
        if kind == 1 then
            at = at + 1
        elseif length < 2 or at + length - 1 > #octets then
            return nil
        elseif kind == ENO_KIND then
            return RFC8548, octets:sub(at + 2, at + length - 1), at - 1, length
        elseif kind == EXPERIMENT_KIND and octets:sub(at + 2, at + 3) == ENO_EXID then
            return STANFORD, octets:sub(at + 4, at + length - 1), at - 1, length
        else
            at = at + length
        end
    end
    return nil
end

-- Whether both SYNs were seen by now, and agree.
local function note_segment(pinfo, segment, flags, dialect, contents)
    local seq = segment(4, 4):uint()
    local flow, back = flow_of(pinfo, segment(0, 2):uint(), segment(2, 2):uint())
    local syn, ack = flags % 4 >= 2, flags % 32 >= 16
    local c = by_flow[flow]
    if syn and not ack then
        if c == nil or c.isn ~= seq then
            c = dialect and {
                client = flow, isn = seq, dialect = dialect, [true] = {}, [false] = {},
            }
            by_flow[flow], by_flow[back] = c, c
        end
        if c and dialect then c.offer_of_client = offer_of(contents) end
    elseif c and syn then
        if dialect == c.dialect then
            c.offer_of_server = offer_of(contents)
            agree(c)
        end
    elseif c and flow == c.client and dialect then
        c.acknowledged = true
    end
    by_packet[pinfo.number] = c
    return c and syn and c.tep
end

local function show_suboption(range, s, octets, dialect, tree)
    local from = (s.size_at or s.at) - 1
    local len = s.data_at - 1 + s.data_len - from
    local part = tree:add(eno, range(from, len), string.format(
        "Suboption: TEP 0x%02x, %s%s", s.tep, TEPS[s.tep] or "unassigned",
        s.v and string.format(", %d bytes of data", s.data_len) or ""))
    if s.size_at then
        part:add(e.size, range(s.size_at - 1, 1)):append_text(
            string.format(", %d bytes of data", s.data_len))
    end
    part:add(e.v, range(s.at - 1, 1))
    part:add(e.tep, range(s.at - 1, 1))
    if s.data_len == 0 then return end
    local data = octets:sub(s.data_at, s.data_at + s.data_len - 1)
    part:add(e.data, range(s.data_at - 1, s.data_len))
    if s.tep == EXPERIMENTAL_TEP and data:sub(1, 2) == AUTHENTICATED and #data > 2 then
        part:add(e.version, range(s.data_at + 1, 1))
    end
    local skip, nonce_len = resumption(dialect, s.tep, data)
    if skip == nil then return end
    part:add(e.resume, range(s.data_at - 1 + skip, RESUME_ID_LEN))
    if nonce_len > 0 then
        part:add(e.nonce, range(s.data_at - 1 + skip + RESUME_ID_LEN, nonce_len))
    end
end

-- `range` is what follows kind, length and ExID; nil where nothing does.
local function show_contents(range, syn, pinfo, dialect, tree)
    local octets = range and range:bytes():raw() or ""
    if not syn then
        tree:add(e.ack)
        return
    end
    local found, global_at = suboptions(octets)
    if found == nil then
        tree:add_proto_expert_info(ill_formed)
        return
    end
    if global_at then
        local part = tree:add(e.global, range(global_at - 1, 1))
        part:add(e.a, range(global_at - 1, 1))
        part:add(e.b, range(global_at - 1, 1))
    end
    local names = {}
    for _, s in ipairs(found) do
        show_suboption(range, s, octets, dialect, tree)
        names[#names + 1] = string.format("0x%02x", s.tep)
    end
    pinfo.cols.info:append(" ENO=" .. table.concat(names, ","))
end

-- Whether the segment in hand is a SYN; the option alone does not tell.
local syn_in_hand = false

-- Within Wireshark's own list of TCP options.
local option = Proto("ENO", "Encryption Negotiation (ENO)")
function option.dissector(tvb, pinfo, tree)
    local part = tree:add(eno, tvb(), "TCP Option - Encryption Negotiation (ENO)")
    part:add(e.kind, tvb(0, 1))
    part:add(e.length, tvb(1, 1))
    show_contents(tvb:len() > 2 and tvb(2) or nil, syn_in_hand, pinfo, RFC8548, part)
    return tvb:len()
end
DissectorTable.get("tcp.option"):add(ENO_KIND, option)

-- In front of TCP's own dissector, for there are no fields at a pass at which nobody
-- looks.  Kind 253 belongs to many: Wireshark shows it, and this behind it once more.
local tcp = DissectorTable.get("ip.proto"):get_dissector(TCP)

-- What TCP or a protocol above it cannot read comes as an error, and is not Lua's.
local function call_tcp(tvb, pinfo, tree)
    local done, taken = pcall(tcp.call, tcp, tvb, pinfo, tree)
    if done then return taken end
    tree:add_proto_expert_info(unreadable)
    return tvb:len()
end

function eno.dissector(tvb, pinfo, tree)
    local header = tvb:len() >= 20 and 4 * math.floor(tvb(12, 1):uint() / 16) or 0
    if header < 20 or header > tvb:len() or pinfo.in_error_pkt then
        return call_tcp(tvb, pinfo, tree)
    end
    local flags = tvb(13, 1):uint()
    local dialect, contents, at, length
    if header > 20 then
        dialect, contents, at, length = find_eno(tvb(20, header - 20):bytes():raw())
    end
    local agreed = false
    if not pinfo.visited then
        agreed = note_segment(pinfo, tvb, flags, dialect, contents)
    end
    syn_in_hand = flags % 4 >= 2
    local taken = call_tcp(tvb, pinfo, tree)
    -- By then TCP has a conversation, and this is whose data it carries.
    if agreed then pinfo.conversation = tcpcrypt end
    if dialect == STANFORD then
        local whole = tvb(20 + at, length)
        local part = tree:add(eno, whole, "TCP Option - ENO, experimental form")
        part:add(e.kind, whole(0, 1))
        part:add(e.length, whole(1, 1))
        part:add(e.exid, whole(2, 2))
        local range = length > 4 and whole(4) or nil
        show_contents(range, flags % 4 >= 2, pinfo, STANFORD, part)
    end
    return taken
end
DissectorTable.get("ip.proto"):add(TCP, eno)

-- The file of opened frames ---------------------------------------------------------

-- Lines `TCPCRYPT_FRAME <frame> <plaintext>`, hex.  The index has the place of each by
-- its tag; frames themselves stay in the file.
local opened = { index = {}, file = nil, path = "" }

local function read_opened()
    if opened.file then opened.file:close() end
    opened.index, opened.file, opened.path = {}, nil, tcpcrypt.prefs.opened
    if opened.path == "" then return end
    local file, why = io.open(opened.path, "rb")
    if file == nil then
        report_failure("tcpcrypt: opened frames: " .. tostring(why))
        return
    end
    opened.file = file
    local place, count = 0, 0
    for line in file:lines() do
        local frame = line:match("^TCPCRYPT_FRAME (%x+) %x+$")
        if frame and #frame >= 2 * (FRAME_HEADER_LEN + FRAME_MIN) and count < OPENED_MAX then
            opened.index[frame:sub(-2 * TAG_LEN)] = { place, #line }
            count = count + 1
        end
        place = place + #line + 1
    end
end

-- The plaintext of a frame, in hex; nil: not known.
local function plaintext_of(frame)
    if opened.file == nil then return nil end
    local found = opened.index[frame:sub(-2 * TAG_LEN)]
    if found == nil then return nil end
    opened.file:seek("set", found[1])
    local line = opened.file:read(found[2]) or ""
    local stated, plaintext = line:match("^TCPCRYPT_FRAME (%x+) (%x+)$")
    if stated ~= frame then return nil end
    return plaintext
end

function tcpcrypt.init()
    by_flow, by_packet = {}, {}
    read_opened()
end

-- RFC 8548, section 4.1: Init1 and Init2 --------------------------------------------

local function public_len(c, first)
    if c.tep == EXPERIMENTAL_TEP then
        if c.version == 1 then return 32 end
        if c.version == 2 then return first and 1216 or 1120 end
        return nil
    end
    return c.dialect.keys[c.tep]
end

-- docs/authenticated-tep.md: what follows Pub_A, or Pub_B.
local function show_tail(tail, first, tree)
    local flags = tail(0, 1):uint()
    local part = tree:add(f.tail, tail)
    part:add(f.static_flag, tail(0, 1))
    part:add(f.psk_flag, tail(0, 1))
    local static_len = flags % 2 == 1 and (first and 32 or 48) or 0
    local rest = first and (flags % 4 >= 2 and 8 or 0) or 32
    if tail:len() ~= 1 + static_len + rest then
        part:add_proto_expert_info(malformed, "not of the length that its flags ask for")
        return
    end
    if static_len > 0 then
        part:add(first and f.static_key or f.sealed, tail(1, static_len))
    end
    if rest > 0 then
        part:add(first and f.hint or f.proof, tail(1 + static_len, rest))
    end
end

local function show_init(range, c, pinfo, tree)
    local first = range(0, 4):bytes():raw() == INIT1
    local name = first and "Init1" or "Init2"
    local part = tree:add(f.init, range, name)
    pinfo.cols.info:append(" " .. name)
    part:add(f.magic, range(0, 4))
    part:add(f.message_len, range(4, 4))
    local at, count, cipher_len = 8, 1, c.dialect.cipher_len
    if first then
        part:add(f.nciphers, range(8, 1))
        at, count = 9, range(8, 1):uint()
    end
    if range:len() < at + count * cipher_len + NONCE_LEN then
        part:add_proto_expert_info(malformed, "shorter than what it holds")
        return
    end
    for _ = 1, count do
        part:add(f.cipher, range(at, cipher_len))
        at = at + cipher_len
    end
    part:add(f.nonce, range(at, NONCE_LEN)):prepend_text(first and "N_A, " or "N_B, ")
    at = at + NONCE_LEN
    local key_len = public_len(c, first) or range:len() - at
    if range:len() < at + key_len then
        part:add_proto_expert_info(malformed, "no room for the public key of this TEP")
        return
    end
    if key_len > 0 then part:add(f.public, range(at, key_len)) end
    at = at + key_len
    if at == range:len() then return end
    if c.version then
        show_tail(range(at), first, part)
    else
        part:add(f.tail, range(at))
    end
end

-- RFC 8548, section 4.2: frames -----------------------------------------------------

local function show_plaintext(hex, c, pinfo, part, tree)
    local plaintext = ByteArray.new(hex):tvb("tcpcrypt, opened")
    local flags = plaintext(0, 1)
    local shown = part:add(f.flags, flags)
    shown:add(f.finp, flags)
    shown:add(f.urgp, flags)
    local at = 1
    if flags:uint() % 4 >= 2 and plaintext:len() >= 3 then
        part:add(f.urgent, plaintext(1, 2))
        at = 3
    end
    if flags:uint() % 2 == 1 then pinfo.cols.info:append(" FINp") end
    if plaintext:len() == at then return end
    part:add(f.data, plaintext(at))
    -- To whom the port belongs.  It has this frame and no more: what it wants put
    -- together lies in another stream than that of TCP.
    local asked, from, can = pinfo.desegment_len, pinfo.desegment_offset, pinfo.can_desegment
    pinfo.can_desegment = 0
    DissectorTable.get("tcp.port"):try(c.port, plaintext(at):tvb(), pinfo, tree)
    pinfo.desegment_len, pinfo.desegment_offset, pinfo.can_desegment = asked, from, can
end

local function show_frame(range, c, pinfo, tree, root)
    local clen = range:len() - FRAME_HEADER_LEN
    local part = tree:add(f.frame, range, string.format("%d bytes of ciphertext", clen))
    local control = part:add(f.control, range(0, 1))
    control:add(f.rekey, range(0, 1))
    part:add(f.clen, range(1, 2))
    part:add(f.ciphertext, range(FRAME_HEADER_LEN, clen))
    if range(0, 1):uint() % 2 == 1 then pinfo.cols.info:append(" rekey") end
    local hex = plaintext_of(range:bytes():tohex(true))
    if hex then
        part:append_text(", opened")
        show_plaintext(hex, c, pinfo, part, root)
    end
end

-- Streams ---------------------------------------------------------------------------

local function begins_with(octets, magic)
    local len = math.min(#octets, #magic)
    return octets:sub(1, len) == magic:sub(1, len)
end

-- Whether the connection is encrypted: the first payload tells, behind a handshake in
-- which a middlebox may have kept the client's acknowledgment of the option.
local function is_encrypted(c, tvb, from_client)
    if c.in_band then return true end
    if c.encrypted == nil then
        local magic = (from_client == c.client_is_a) and INIT1 or INIT2
        if c.resumed then
            c.encrypted = c.acknowledged or c.dialect == STANFORD
        else
            c.encrypted = begins_with(tvb(0, math.min(4, tvb:len())):bytes():raw(), magic)
        end
    end
    return c.encrypted
end

-- Bytes of what begins at `at`, and what it is; nil: not yet known, false: nothing of
-- this protocol begins there.
local function size_at(tvb, at, c, side, pinfo)
    local left = tvb:len() - at
    if c.in_band and at == 0 and (side.preface == nil or side.preface == pinfo.number) then
        local head = tvb(0, math.min(#PREFACE, left)):bytes():raw()
        if not begins_with(head, PREFACE) then return false end
        if left <= #PREFACE then return nil end
        return PREFACE_LEN + math.max(2, tvb(#PREFACE, 1):uint()), "preface"
    end
    local due = not c.resumed and (side.init == nil or side.init == pinfo.number)
    if due then
        local head = tvb(at, math.min(4, left)):bytes():raw()
        if begins_with(head, INIT1) or begins_with(head, INIT2) then
            if left < 8 then return nil end
            local length = tvb(at + 4, 4):uint()
            if length < 8 + 1 + NONCE_LEN or length > INIT_MAX then return false end
            return length, "init"
        elseif side.init == nil then
            return false
        end
    end
    if left < FRAME_HEADER_LEN then return nil end
    local length = tvb(at + 1, 2):uint()
    if tvb(at, 1):uint() > 1 or length < FRAME_MIN then return false end
    return FRAME_HEADER_LEN + length, "frame"
end

local function show_connection(root, range, c)
    local tree = root:add(tcpcrypt, range, "tcpcrypt, " .. c.dialect.name)
    if c.tep then
        tree:add(f.tep, c.tep):set_generated()
        tree:add(f.resumed, c.resumed):set_generated()
    end
    return tree
end

-- docs/sockets.md: "TCENO", a version, and the option of a SYN.
local function show_preface(range, c, pinfo, side, from_client, tree)
    local contents = range:len() > PREFACE_LEN + 2 and range(PREFACE_LEN + 2) or nil
    if not pinfo.visited then
        local octets = contents and contents:bytes():raw() or ""
        side.preface = pinfo.number
        c[from_client and "offer_of_client" or "offer_of_server"] = offer_of(octets)
        agree(c)
    end
    local part = tree:add(f.preface, range, "negotiation within the stream")
    show_contents(contents, true, pinfo, RFC8548, part)
end

function tcpcrypt.dissector(tvb, pinfo, root)
    local c = by_packet[pinfo.number]
    if c == nil or tvb:len() == 0 or not (c.tep or c.in_band) then return 0 end
    local from_client = c.client == flow_of(pinfo, pinfo.src_port, pinfo.dst_port)
    if not is_encrypted(c, tvb, from_client) then return 0 end
    c.port = from_client and pinfo.dst_port or pinfo.src_port
    local side = c[from_client]
    pinfo.cols.protocol = "tcpcrypt"
    local at, tree = 0, nil
    while at < tvb:len() do
        local size, what = size_at(tvb, at, c, side, pinfo)
        local whole = size and at + size <= tvb:len()
        local more = tvb:len() == tvb:reported_len() and pinfo.can_desegment > 0
        if not whole and size ~= false and more then
            pinfo.desegment_offset = at
            pinfo.desegment_len =
                size and at + size - tvb:len() or DESEGMENT_ONE_MORE_SEGMENT
            return tvb:len()
        end
        tree = tree or show_connection(root, tvb(at), c)
        if size == false then
            tree:add_tvb_expert_info(out_of_step, tvb(at))
            return tvb:len()
        end
        if not whole then
            tree:add_tvb_expert_info(out_of_step, tvb(at), "It is not here as a whole")
            return tvb:len()
        end
        if what == "preface" then
            show_preface(tvb(at, size), c, pinfo, side, from_client, tree)
        elseif what == "init" then
            side.init = pinfo.number
            show_init(tvb(at, size), c, pinfo, tree)
        else
            show_frame(tvb(at, size), c, pinfo, tree, root)
        end
        at = at + size
    end
    return tvb:len()
end

-- Secure sockets: the first to speak begins with a preface.
tcpcrypt:register_heuristic("tcp", function(tvb, pinfo, root)
    if tvb:len() <= #PREFACE or tvb(0, #PREFACE):bytes():raw() ~= PREFACE then return false end
    local flow, back = flow_of(pinfo, pinfo.src_port, pinfo.dst_port)
    if by_packet[pinfo.number] == nil and not pinfo.visited then
        local c = { client = flow, dialect = RFC8548, in_band = true, [true] = {}, [false] = {} }
        by_flow[flow], by_flow[back], by_packet[pinfo.number] = c, c, c
    end
    if by_packet[pinfo.number] == nil then return false end
    pinfo.conversation = tcpcrypt
    tcpcrypt.dissector(tvb, pinfo, root)
    return true
end)
