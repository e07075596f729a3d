//go:build !wasip1

package worker

func send(int32, string, [][2]string, []byte) (*httpAnswer, error) {
	return nil, &HttpError{InternalError, "requests can be sent by WebAssembly workers only"}
}
