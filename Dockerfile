# Targets: ingest, enrich, weir. Static binaries on an empty image, not root.
FROM golang:1.26-bookworm AS build
ARG GOPROXY
ARG GOSUMDB
ARG GOFLAGS
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /out/ ./cmd/ingest ./cmd/enrich ./cmd/weir \
 && printf 'weir:x:65532:65532::/:/sbin/nologin\n' > /out/passwd

FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/passwd /etc/passwd
USER 65532:65532

FROM base AS ingest
COPY --from=build /out/ingest /ingest
EXPOSE 2055/udp 9108/tcp
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s CMD ["/ingest", "health"]
ENTRYPOINT ["/ingest"]

FROM base AS enrich
COPY --from=build /out/enrich /enrich
EXPOSE 9108/tcp
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s CMD ["/enrich", "health"]
ENTRYPOINT ["/enrich"]

FROM base AS weir
COPY --from=build /out/weir /weir
ENTRYPOINT ["/weir"]
