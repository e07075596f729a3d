//go:build wasip1

package worker

import (
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"
)

//go:wasmimport http send-http-request
func sendHttpRequest(hasBody int32, body unsafe.Pointer, bodyLen uint32, headers unsafe.Pointer, headersLen uint32, method int32,
	params unsafe.Pointer, paramsLen uint32, uri unsafe.Pointer, uriLen uint32, result unsafe.Pointer)

// Where the server puts its answer, aligned to words.
var result [7]uint32

// What the server allocated for its answer, by address: it hands over addresses, and only these are read.
var allocated map[uint32][]byte

//go:wasmexport canonical_abi_realloc
func realloc(old unsafe.Pointer, oldLen, align, size uint32) unsafe.Pointer {
	if size == 0 {
		return nil
	}
	if align == 0 || align&(align-1) != 0 || align > 4096 {
		panic("worker: the server asked for memory in a way that is not known")
	}
	memory := make([]byte, size+align-1)
	at := addressOf(memory)
	memory = memory[(align-at%align)%align:][:size]
	if before := allocated[uint32(uintptr(old))]; old != nil {
		copy(memory, before[:min(int(oldLen), len(before))])
		delete(allocated, uint32(uintptr(old)))
	}
	allocated[addressOf(memory)] = memory
	return unsafe.Pointer(&memory[0])
}

func addressOf(memory []byte) uint32 {
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
}

func send(method int32, uri string, headers [][2]string, body []byte) (*httpAnswer, error) {
	// One block holds the list of headers, its texts and the URI, so that no address is of memory that may move.
	texts := len(headers) * 16
	size := texts + len(uri)
	for _, header := range headers {
		size += len(header[0]) + len(header[1])
	}
	block := make([]byte, size+1)
	base, at := addressOf(block), texts
	put := func(text string) uint32 {
		copy(block[at:], text)
		at += len(text)
		return base + uint32(at-len(text))
	}
	for index, header := range headers {
		entry := block[index*16:]
		for part, text := range header {
			binary.LittleEndian.PutUint32(entry[part*8:], put(text))
			binary.LittleEndian.PutUint32(entry[part*8+4:], uint32(len(text)))
		}
	}
	uriAt := at
	put(uri)
	hasBody := int32(0)
	if len(body) > 0 {
		hasBody = 1
	}

	allocated = map[uint32][]byte{}
	defer func() { allocated = nil }()
	result = [7]uint32{}
	sendHttpRequest(hasBody, unsafe.Pointer(unsafe.SliceData(body)), uint32(len(body)), unsafe.Pointer(&block[0]),
		uint32(len(headers)), method, nil, 0, unsafe.Pointer(&block[uriAt]), uint32(len(uri)), unsafe.Pointer(&result))
	runtime.KeepAlive(block)
	runtime.KeepAlive(body)
	if result[0]&0xff != 0 {
		message, err := taken(result[2], result[3])
		return nil, errors.Join(err, &HttpError{ErrorKind(result[1] & 0xff), string(message)})
	}
	return readAnswer()
}

func readAnswer() (*httpAnswer, error) {
	answer := &httpAnswer{status: int(result[6] & 0xffff)}
	var err error
	if result[1]&0xff != 0 {
		if answer.body, err = taken(result[2], result[3]); err != nil {
			return nil, err
		}
	}
	if result[5] > 1<<16 {
		return nil, &HttpError{InternalError, "the answer has too many headers"}
	}
	list, err := taken(result[4], result[5]*16)
	if err != nil {
		return nil, err
	}
	for ; len(list) > 0; list = list[16:] {
		var header [2]string
		for part := range header {
			text, err := taken(binary.LittleEndian.Uint32(list[part*8:]), binary.LittleEndian.Uint32(list[part*8+4:]))
			if err != nil {
				return nil, err
			}
			header[part] = string(text)
		}
		answer.headers = append(answer.headers, header)
	}
	return answer, nil
}

// taken returns what the server put at an address.
func taken(at, size uint32) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	memory := allocated[at]
	if uint32(len(memory)) < size {
		return nil, &HttpError{InternalError, "the server's answer lies outside of what it allocated"}
	}
	return memory[:size:size], nil
}
