module bramley.example/bench/apns

go 1.21
