// SPDX-License-Identifier: Apache-2.0

package hpack

import "testing"

var (
	request1 = []header{{":method", "GET", false}, {":scheme", "http", false}, {":path", "/", false}, {":authority", "www.example.com", false}}
	request2 = append(request1[:4:4], header{"cache-control", "no-cache", false})
	request3 = []header{{":method", "GET", false}, {":scheme", "https", false}, {":path", "/index.html", false}, {":authority", "www.example.com", false},
		{"custom-key", "custom-value", false}}

	response1 = []header{{":status", "302", false}, {"cache-control", "private", false}, {"date", "Mon, 21 Oct 2013 20:13:21 GMT", false},
		{"location", "https://www.example.com", false}}
	response2 = append([]header{{":status", "307", false}}, response1[1:]...)
	response3 = []header{{":status", "200", false}, {"cache-control", "private", false}, {"date", "Mon, 21 Oct 2013 20:13:22 GMT", false},
		{"location", "https://www.example.com", false}, {"content-encoding", "gzip", false},
		{"set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1", false}}
)

const (
	requestTable2  = "cache-control: no-cache\n:authority: www.example.com"
	requestTable3  = "custom-key: custom-value\n" + requestTable2
	responseTable1 = "location: https://www.example.com\ndate: Mon, 21 Oct 2013 20:13:21 GMT\ncache-control: private\n:status: 302"
	responseTable2 = ":status: 307\nlocation: https://www.example.com\ndate: Mon, 21 Oct 2013 20:13:21 GMT\ncache-control: private"
	responseTable3 = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\ncontent-encoding: gzip\ndate: Mon, 21 Oct 2013 20:13:22 GMT"
)

// The examples of RFC 7541 appendix C: blocks, fields and the dynamic table after each block.
func TestDecoder_WhenGivenTheExamplesOfTheRFC_ThenFieldsAndTableAreTheirs(t *testing.T) {
	type block struct {
		wire  string
		want  []header
		table string
		size  uint32
	}
	tests := []struct {
		name   string
		size   uint32
		blocks []block
	}{
		{"C.2.1 indexed literal", 4096, []block{{"400a637573746f6d2d6b65790d637573746f6d2d686561646572", []header{{"custom-key", "custom-header", false}},
			"custom-key: custom-header", 55}}},
		{"C.2.2 literal without indexing", 4096, []block{{"040c2f73616d706c652f70617468", []header{{":path", "/sample/path", false}}, "", 0}}},
		{"C.2.3 never indexed", 4096, []block{{"100870617373776f726406736563726574", []header{{"password", "secret", true}}, "", 0}}},
		{"C.2.4 indexed", 4096, []block{{"82", []header{{":method", "GET", false}}, "", 0}}},
		{"C.3 requests", 4096, []block{
			{"828684410f7777772e6578616d706c652e636f6d", request1, ":authority: www.example.com", 57},
			{"828684be58086e6f2d6361636865", request2, requestTable2, 110},
			{"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", request3, requestTable3, 164}}},
		{"C.4 requests with Huffman coding", 4096, []block{
			{"828684418cf1e3c2e5f23a6ba0ab90f4ff", request1, ":authority: www.example.com", 57},
			{"828684be5886a8eb10649cbf", request2, requestTable2, 110},
			{"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", request3, requestTable3, 164}}},
		{"C.5 responses", 256, []block{
			{"4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
				response1, responseTable1, 222},
			{"4803333037c1c0bf", response2, responseTable2, 222},
			{"88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
				response3, responseTable3, 215}}},
		{"C.6 responses with Huffman coding", 256, []block{
			{"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3", response1, responseTable1, 222},
			{"4883640effc1c0bf", response2, responseTable2, 222},
			{"88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
				response3, responseTable3, 215}}},
	}
	for _, test := range tests {
		d := newDecoder(test.size)
		for i, b := range test.blocks {
			got, err := decodeAll(t, d, unhex(t, b.wire))
			if err != None || !equal(got, b.want) {
				t.Errorf("%s, block %d: %v, %v, want %v", test.name, i, got, err, b.want)
			}
			if d.size != b.size || tableText(&d.table) != b.table {
				t.Errorf("%s, block %d: table of %d:\n%s\nwant %d:\n%s", test.name, i, d.size, tableText(&d.table), b.size, b.table)
			}
		}
	}
}

// Appendix C.1.
func TestInteger_WhenGivenTheExamplesOfTheRFC_ThenBothWaysAgree(t *testing.T) {
	for _, test := range []struct {
		v    uint32
		bits uint
		wire string
	}{{10, 5, "0a"}, {1337, 5, "1f9a0a"}, {42, 8, "2a"}, {1<<32 - 1, 5, "1fe0ffffff0f"}, {31, 5, "1f00"}, {30, 5, "1e"}, {127, 7, "7f00"}} {
		wire := appendInteger(nil, 0, test.bits, test.v)
		if string(wire) != string(unhex(t, test.wire)) {
			t.Errorf("%d: %x, want %s", test.v, wire, test.wire)
		}
		d := newDecoder(0)
		d.Decode(wire)
		if got, ok := d.integer(test.bits); !ok || got != test.v || d.at != len(d.block) {
			t.Errorf("%x: %d, %v", wire, got, ok)
		}
	}
}
