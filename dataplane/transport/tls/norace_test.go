// SPDX-License-Identifier: Apache-2.0

//go:build !race

package tls

const raced = false
