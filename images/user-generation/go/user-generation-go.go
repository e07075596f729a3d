// The Go program of the article "Running Wasm Workers Server in Docker Desktop" (Wasm Labs, October 2023).
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/vmware-labs/wasm-workers-server/kits/go/worker"
)

type User struct {
	FirstName string `json:"first_name"`
	LastName  string `json:"last_name"`
	Username  string `json:"username"`
	Email     string `json:"email"`
}

type ResponseData struct {
	User             User   `json:"user"`
	SomeFileContents string `json:"some_file_contents"`
	GeneratedUsers   uint32 `json:"generated_users"`
}

func main() {
	worker.ServeFunc(func(w http.ResponseWriter, r *http.Request) {
		cache, _ := r.Context().Value(worker.CacheKey).(map[string]string)

		// Create the request
		req, err := http.NewRequest(http.MethodGet, "https://random-data-api.com/api/v2/users", nil)
		if err != nil {
			panic(err)
		}
		res, err := worker.SendHttpRequest(req)
		if err != nil {
			panic(fmt.Errorf("could not fetch data from remote service: %w", err))
		}

		// Read the response
		resBody, err := io.ReadAll(res.Body)
		if err != nil {
			panic(err)
		}
		res.Body.Close()
		user := User{}
		err = json.Unmarshal(resBody, &user)
		if err != nil {
			panic(fmt.Errorf("invalid data returned by remote service: %w", err))
		}

		fileContents, err := os.ReadFile("/tmp/file.txt")
		if err != nil {
			panic(err)
		}

		generatedUserCount := uint32(0)
		if count, ok := cache["generated_users_counter"]; ok {
			n, _ := strconv.ParseUint(count, 10, 32)
			generatedUserCount = uint32(n)
		}
		generatedUserCount++
		cache["generated_users_counter"] = fmt.Sprintf("%d", generatedUserCount)

		responseData := ResponseData{
			User:             user,
			SomeFileContents: string(fileContents),
			GeneratedUsers:   generatedUserCount,
		}
		marshaledResponseData, err := json.Marshal(responseData)
		if err != nil {
			panic(err)
		}

		w.Header().Set("x-generated-by", "wasm-workers-server")
		w.Write(marshaledResponseData)
	})
}
