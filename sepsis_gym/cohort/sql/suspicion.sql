-- Suspected infection: an antibiotic and a culture close in time.
-- Inputs:  prescriptions (antibiotics only), microbiologyevents, excluded_routes, excluded_names
-- Output:  antibiotic_id, subject_id, hadm_id, drug, antibiotic_time, suspected_at, suspected_until
--          (the same, or a day later where only the culture's date is known); both NULL: no culture
-- Rule:    culture, then antibiotic within 72 h (by date: 0 to 3 days): time of the culture; else
--          antibiotic, then culture within 24 h (by date: same or next day): time of the
--          antibiotic. Earliest culture first. Negative cultures count. A row without a route is
--          kept: nothing says that it is topical.
-- Source:  Seymour et al. 2016; MIT-LCP/mimic-code, concepts "antibiotic" and
--          "suspicion_of_infection".
WITH antibiotics AS (
    SELECT row_number() OVER (ORDER BY subject_id, starttime, drug, stoptime) AS antibiotic_id,
        subject_id, hadm_id, drug, starttime AS antibiotic_time, starttime::DATE AS antibiotic_date
    FROM prescriptions p
    WHERE starttime IS NOT NULL AND drug_type IS DISTINCT FROM 'BASE'
        AND NOT EXISTS (SELECT 1 FROM excluded_routes e WHERE p.route ILIKE e.pattern)
        AND NOT EXISTS (SELECT 1 FROM excluded_names e WHERE p.drug ILIKE e.pattern)
), cultures AS (
    SELECT max(subject_id) AS subject_id, max(chartdate)::DATE AS culture_date,
        max(charttime) AS culture_time
    FROM microbiologyevents
    GROUP BY micro_specimen_id
), pairs AS (
    SELECT a.antibiotic_id, c.culture_time, c.culture_date, 1 AS preference
    FROM antibiotics a
    JOIN cultures c ON c.subject_id = a.subject_id AND CASE
        WHEN c.culture_time IS NULL
            THEN a.antibiotic_date - c.culture_date BETWEEN 0 AND 3
        ELSE a.antibiotic_time > c.culture_time
            AND a.antibiotic_time <= c.culture_time + INTERVAL 72 HOUR END
    UNION ALL
    SELECT a.antibiotic_id, c.culture_time, c.culture_date, 2
    FROM antibiotics a
    JOIN cultures c ON c.subject_id = a.subject_id AND CASE
        WHEN c.culture_time IS NULL
            THEN c.culture_date - a.antibiotic_date BETWEEN 0 AND 1
        ELSE c.culture_time >= a.antibiotic_time
            AND c.culture_time < a.antibiotic_time + INTERVAL 24 HOUR END
), first_pairs AS (
    SELECT * FROM pairs
    QUALIFY row_number() OVER (PARTITION BY antibiotic_id
        ORDER BY preference, culture_date, culture_time NULLS LAST) = 1
)
SELECT a.antibiotic_id, a.subject_id, a.hadm_id, a.drug, a.antibiotic_time,
    CASE p.preference WHEN 1 THEN coalesce(p.culture_time, p.culture_date::TIMESTAMP)
        WHEN 2 THEN a.antibiotic_time END AS suspected_at,
    CASE WHEN p.preference = 1 AND p.culture_time IS NULL
        THEN p.culture_date::TIMESTAMP + INTERVAL 1 DAY ELSE suspected_at END AS suspected_until
FROM antibiotics a
LEFT JOIN first_pairs p USING (antibiotic_id)
